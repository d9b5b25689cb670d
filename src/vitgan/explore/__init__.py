"""A local web page over trained runs, by gradio: what they draw, and how they train."""
