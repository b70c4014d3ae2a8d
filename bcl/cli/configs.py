"""``bcl configs``: the named configurations."""

import argparse

import yaml

from bcl.cli.configuration import compose, parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="print this configuration as YAML")


def run(args: argparse.Namespace) -> int:
    """List recipes and methods, or print one composed configuration."""
    if args.name:
        print(yaml.safe_dump(compose(args.name), sort_keys=False), end="")
        return 0
    print("A configuration is RECIPE/METHOD, such as digits_lt/bcl_i: any two of these.")
    for folder in ("recipes", "methods"):
        found = parts(folder)
        width = max(map(len, found))
        print(f"\n{folder}:")
        print("\n".join(f"  {name:<{width}}  {about}" for name, about in found.items()))
    print("\n`bcl configs RECIPE/METHOD` prints one in full.")
    return 0
