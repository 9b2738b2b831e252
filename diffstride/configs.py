"""The configurations that come with the package.

    python -m diffstride.configs                          # list them
    python -m diffstride.configs list papers              # some of them
    python -m diffstride.configs show quickstart.gin
    python -m diffstride.configs copy papers/diffstride/cifar10.gin .

The list has one line for each file, from the comment at its top. A copy brings
along what the file includes, under the same names, so that the copies are the
ones that a run in that folder finds: gin looks in the working directory first.
"""

import argparse
import difflib
import pathlib
import re

_PACKAGE = pathlib.Path(__file__).resolve().parent
# A checkout has the folder at its top level; a wheel carries it in the package.
_IN_CHECKOUT = (_PACKAGE.parent / "configs" / "base.gin").is_file()
_ROOT = _PACKAGE.parent if _IN_CHECKOUT else _PACKAGE / "packaged"
FOLDER = _ROOT / "configs"
# Where gin files are looked for after the working directory, so that both
# `configs/quickstart.gin` and `quickstart.gin` are found.
SEARCH_PATHS = (_ROOT, FOLDER)
SUFFIXES = (".gin", ".toml")


class UnknownConfigError(ValueError):
    """There is no such file among the configurations of the package."""


def names():
    """Names of all configurations, as paths within their folder."""
    return sorted(
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*")
        if path.suffix in SUFFIXES
    )


def find(name):
    """The path of a configuration.

    Args:
        name: path within the folder, or the end of one that fits a single
            file. The suffix may be left out.
    """
    wanted = name.removeprefix("configs/")
    known = names()
    found = [known_name for known_name in known if _fits(known_name, wanted)]
    exact = [n for n in found if wanted in (n, str(pathlib.Path(n).stem))]
    if len(found) > 1 and len(exact) == 1:
        found = exact
    if len(found) == 1:
        return FOLDER / found[0]
    if found:
        raise UnknownConfigError(
            "`name` must fit one configuration. Received: "
            f"name={name!r}, which fits {', '.join(found)}"
        )
    near = difflib.get_close_matches(wanted, known, n=3) + [
        n for n in known if pathlib.Path(wanted).stem in n
    ]
    near = list(dict.fromkeys(near))[:5]
    hint = f" Did you mean: {', '.join(near)}?" if near else ""
    raise UnknownConfigError(
        "`name` must be a configuration that `python -m diffstride.configs` "
        f"lists. Received: name={name!r}.{hint}"
    )


def _fits(known_name, wanted):
    endings = [known_name, *(known_name.removesuffix(s) for s in SUFFIXES)]
    return any(f"/{ending}".endswith(f"/{wanted}") for ending in endings)


def summary(path):
    """The first sentence of the comment at the top of a configuration."""
    lines = []
    for line in path.read_text().splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    text = " ".join(lines)
    # A colon at the end introduces a command, which is on the next lines.
    return re.split(r"(?<=[.!?]) (?=[A-Z`])|:$|: (?=--)", text)[0]


def with_includes(path):
    """A configuration and the files that it includes, all as paths."""
    found = {}

    def visit(path):
        if path in found:
            return
        found[path] = None
        for name in re.findall(r"['\"]([\w./-]+\.gin)['\"]", path.read_text()):
            if (FOLDER / name).is_file():
                visit(FOLDER / name)

    visit(path)
    return list(found)


def copy(name, directory):
    """Copies a configuration, with what it includes, into a directory.

    Files that are there already with another content are left as they are, and
    an error names them.

    Returns:
        The paths of the copies.
    """
    directory = pathlib.Path(directory).expanduser()
    texts = {
        directory / path.relative_to(FOLDER): path.read_text()
        for path in with_includes(find(name))
    }
    changed = [
        str(path)
        for path, text in texts.items()
        if path.exists() and path.read_text() != text
    ]
    if changed:
        raise FileExistsError(
            f"{', '.join(changed)} would be overwritten, with other content. "
            "Choose another directory, or remove them first."
        )
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(texts)


def print_list(under=""):
    listed = [
        n for n in names() if n.startswith(under.removeprefix("configs/"))
    ]
    if not listed:
        raise UnknownConfigError(
            f"`under` must be a folder of configurations. Received: {under!r}"
        )
    width = max(map(len, listed))
    for name in listed:
        print(f"{name:{width}}  {summary(FOLDER / name)}")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m diffstride.configs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("list", help="one line for each file")
    command.add_argument("under", nargs="?", default="", help="a folder")
    command = commands.add_parser("show", help="print a file")
    command.add_argument("name")
    command = commands.add_parser("copy", help="copy a file and its includes")
    command.add_argument("name")
    command.add_argument("directory", nargs="?", default=".")
    args = parser.parse_args(arguments)
    try:
        if args.command == "show":
            print(find(args.name).read_text(), end="")
        elif args.command == "copy":
            for path in copy(args.name, args.directory):
                print(path)
        else:
            print_list(getattr(args, "under", ""))
    except (UnknownConfigError, OSError) as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
