"""A run of a sweep: its choices, its name and its command."""

import dataclasses
import pathlib
import re
import shlex


@dataclasses.dataclass(frozen=True)
class Choice:
    """One value of one axis: its label, and the bindings that it stands for."""

    axis: str
    label: str
    files: tuple = ()
    params: tuple = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        choices: A `Choice` of each axis.
        seed: Seed of the run.
        files: Gin files that all runs have.
        params: Bindings that all runs have; choices override them.
        added: Bindings that all runs have and that override choices.
        left_out: Bindings of all runs that this run cannot use.
    """

    choices: tuple
    seed: int
    files: tuple
    params: tuple = ()
    added: tuple = ()
    left_out: tuple = ()

    @property
    def name(self):
        parts = [f"{choice.axis}={choice.label}" for choice in self.choices]
        return ",".join([*parts, f"seed={self.seed}"])

    @property
    def all_files(self):
        """Gin files, of all runs and of its choices."""
        return [*self.files, *(f for c in self.choices for f in c.files)]

    @property
    def own_params(self):
        """Bindings of its choices."""
        return [param for choice in self.choices for param in choice.params]

    @property
    def shared_params(self):
        """Bindings of all runs."""
        return [*self.params, *self.added]

    @property
    def all_params(self):
        """Bindings, of all runs and of its choices; the last ones win."""
        params = [*self.params, *self.own_params, *self.added]
        return [param for param in params if param not in self.left_out]

    def command(self, workdir):
        """Arguments of the training binary."""
        return [
            *[f"--gin_file={file}" for file in self.all_files],
            *[f"--gin_param={param}" for param in self.all_params],
            f"--workdir={pathlib.Path(workdir) / self.name}",
            f"--seed={self.seed}",
        ]

    def description(self, workdir):
        """The dict that is written to the directory of the run, as JSON."""
        return {
            "choices": {c.axis: c.label for c in self.choices},
            "seed": self.seed,
            "command": self.command(workdir),
            "left_out": list(self.left_out),
        }


def shell_command(arguments):
    """The command of a run, ready to paste into a shell."""
    return " ".join(["python -m diffstride.train", *(map(_quoted, arguments))])


def _quoted(argument):
    # Bindings contain quotes, which `shlex.quote` would make hard to read.
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'
    return shlex.quote(argument)
