"""`vitgan explore`: a local web page, made with gradio, that shows what trained runs draw and how they train.

Each tab of the page is a function `NAME_tab`. `models` and `images` need no gradio.
"""
