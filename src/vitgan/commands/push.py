"""`vitgan push`: upload a run's generator to the Hugging Face Hub."""

import argparse

from vitgan.terminal import add_output, answer

SUMMARY = "upload a run's generator with its card to the Hugging Face Hub"
EXAMPLES = """examples:
  vitgan push runs/faces USER/faces --license cc-by-4.0
  vitgan push runs/faces USER/faces --private
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("identity", metavar="ID", help="USER/NAME on the Hub")
    parser.add_argument("--private", action="store_true", help="if it is new, for nobody else to see")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="of the weights, for the card, as cc-by-4.0 (an export's own, or other)",
    )
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Upload the generator and print its address; returns the exit code 0."""
    from vitgan.sharing.export import push

    address = push(options.run, options.identity, private=options.private, license_id=options.license)
    facts = {"run": options.run, "id": options.identity, "address": address}
    answer(options, facts, f'It is at {address}; vitgan.load("{options.identity}") loads it.')
    return 0
