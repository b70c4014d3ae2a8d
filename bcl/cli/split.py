"""``bcl split``: make, inspect, compare and save long-tailed splits."""

import argparse

from bcl.core.errors import InputError

EXAMPLES = """examples:
  bcl split --list
  bcl split make cifar100/sdclr --svg histogram.svg
  bcl split make cifar10/exponential-100 --root DIR --save split.json
  bcl split make --profile exponential --imbalance-factor 50 --root DIR --save split.npy
  bcl split inspect cifar100_split1_D_i.npy --root DIR --save split.json
  bcl split compare split.json other.npy
"""

PROFILES = ("exponential", "step", "pareto", "cacr-linear", "cacr-exponential")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--list", action="store_true", help="list the recipes and their totals")
    actions = parser.add_subparsers(dest="action", metavar="{make,inspect,compare}")
    make = actions.add_parser("make", help="choose the images of a recipe or a profile")
    make.add_argument("recipe", nargs="?", help="a recipe's name (bcl split --list)")
    make.add_argument("--profile", choices=PROFILES, help="a profile instead of a recipe")
    make.add_argument("--imbalance-factor", type=float, help="of the profile (100)")
    make.add_argument("--max-per-class", type=int, help="images of the profile's largest class")
    make.add_argument(
        "--class-order", choices=("name", "shuffled"), help="order of the profile's classes (name)"
    )
    make.add_argument("--split-seed", type=int, default=0, help="which random subset")
    inspect = actions.add_parser("inspect", help="describe a split or a list file")
    inspect.add_argument("file", help=".npy, .json, or a list of `path label` rows (.txt)")
    for action in (make, inspect):
        action.add_argument(
            "--root", help="class folders (or an archive), torchvision's CIFAR, or a list file"
        )
        action.add_argument(
            "--dataset",
            choices=("cifar10", "cifar100"),
            help="which CIFAR, if --root has both",
        )
        action.add_argument(
            "--test-share",
            type=float,
            default=0.2,
            help="share of the smallest class that is held out of each where there is no test "
            "folder; the datamodule's test_share (0.2)",
        )
        action.add_argument("--save", help="write the split: .npy (indices) or .json (all of it)")
        action.add_argument("--svg", help="write the histogram as an image")
    compare = actions.add_parser("compare", help="show how two splits differ")
    compare.add_argument("files", nargs=2, metavar="file")


def run(args: argparse.Namespace) -> int:
    from bcl.cli import splitting

    if args.list:
        print(splitting.table())
    elif args.action is None:
        raise InputError("say what to do: make, inspect or compare, or --list for the recipes.")
    else:
        getattr(splitting, args.action)(args)
    return 0
