"""`vitgan data info`: say what is in a source of images."""

import argparse

SUMMARY = "say what is in a source of images"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("what", choices=("info",), help="info: its images, classes and unreadable files")
    parser.add_argument("source", metavar="SOURCE", help="as for `vitgan train --data`")


def run(options: argparse.Namespace) -> int:
    """Does it; returns the exit code."""
    from vitgan.data import DataOptions, describe, open_source

    facts = describe(DataOptions(source=options.source).build())
    width, height = open_source(options.source).picture(0).size
    counts = facts["classes"]
    lines = {
        "source": facts["source"],
        "images": f"{facts['count']:,}",
        "first image": f"{width} x {height} pixels",
        "classes": f"{len(counts)}" if counts else "none",
        **{f"  {name}": f"{count:,}" for name, count in counts.items()},
        "unreadable": f"{len(facts['skipped'])}",
        **{f"  {item['name']}": item["reason"] for item in facts["skipped"]},
    }
    longest = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{longest}}  {value}")
    return 0
