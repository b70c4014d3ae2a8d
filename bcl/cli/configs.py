"""``bcl configs``: the named configurations."""

import argparse

import yaml

from bcl.cli.configuration import compose, config_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="print this configuration as YAML")


def run(args: argparse.Namespace) -> int:
    """List the names, or print one composed configuration."""
    if args.name:
        print(yaml.safe_dump(compose(args.name), sort_keys=False), end="")
        return 0
    names = config_names()
    width = max(map(len, names))
    for name, about in names.items():
        print(f"{name:<{width}}  {about}")
    return 0
