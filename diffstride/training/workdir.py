"""The directory of a run belongs to one configuration, and one process."""

import contextlib
import fcntl
import os
import pathlib
import socket

from absl import logging

from diffstride.training.checkpoint_files import write_atomically
from diffstride.validation import ConfigError


class Configuration:
    """The configuration of a run, and how it differs from an earlier one.

    Args:
        text: string. A line for each value.
    """

    def __init__(self, text=""):
        self.text = text

    def differences(self, earlier, free=()):
        """What to tell about another configuration, line by line.

        Args:
            earlier: string. The text of the other configuration.
            free: names of parameters that may differ, where names are known.

        Returns:
            A list of lines, empty where both mean the same.
        """
        old, new = _bindings(earlier), _bindings(self.text)
        lines = [f"there: {line}" for line in old if line not in new]
        return lines + [f"now:   {line}" for line in new if line not in old]


@contextlib.contextmanager
def claimed(directory, config, is_first=True):
    """Makes a directory that of this process and configuration, or refuses it.

    A run that failed before its first checkpoint does not count.

    Args:
        directory: path. Made where there is none.
        config: a `Configuration`, kept there in `config.gin`.
        is_first: whether this is the process that writes, of several that
            train together.

    Raises:
        ConfigError: where another process is at work there, or a run had
            another configuration.
    """
    directory = pathlib.Path(directory)
    if not is_first:
        check_configuration(directory, config)
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        check_configuration(directory, config)
        if config.text:
            text = config.text.encode()
            path = directory / "config.gin"
            write_atomically(path, lambda file: file.write(text))
        yield


def check_configuration(directory, config, free=()):
    """Refuses a directory whose checkpoints are of another configuration.

    Args:
        directory: path.
        config: a `Configuration`.
        free: names of parameters that may differ.

    Raises:
        ConfigError: it names the differences.
    """
    path = pathlib.Path(directory, "config.gin")
    if not config.text or not path.exists():
        return
    if not any(path.parent.glob("checkpoints/*")):
        return
    differences = config.differences(path.read_text(), free)
    if differences:
        lines = "".join(f"\n  {line}" for line in differences)
        raise ConfigError(
            f"{path.parent} belongs to a run of another configuration. Choose "
            "another `workdir`; or, to go on with this configuration all the "
            f"same, remove {path}. Differences:{lines}"
        )


def _bindings(config):
    """The lines of a configuration that bind something."""
    lines = [line.strip() for line in config.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@contextlib.contextmanager
def _locked(directory):
    """A lock that ends with the process, however that ends."""
    with open(directory / ".lock", "a+") as file:
        try:
            # Not `flock`, whose locks processes that are forked inherit.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ConfigError(
                f"{directory} is in use by {file.read() or 'a process'}. End "
                "it first, or choose another `workdir`."
            ) from None
        except OSError as error:
            logging.warning("%s cannot be locked: %s", directory, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
