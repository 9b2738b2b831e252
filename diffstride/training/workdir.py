"""The directory of a run belongs to one configuration, and one process."""

import contextlib
import fcntl
import os
import pathlib
import socket

from absl import logging

from diffstride.training.checkpoints import write_atomically
from diffstride.validation import ConfigError


@contextlib.contextmanager
def claimed(directory, config="", is_first=True):
    """Makes a directory that of this process and configuration, or refuses it.

    A run that failed before its first checkpoint does not count.

    Args:
        directory: path. Made where there is none.
        config: string. The configuration, kept there in `config.gin`.
        is_first: whether this is the process that writes, of several that
            train together.

    Raises:
        ConfigError: where another process is at work there, or a run had
            another configuration.
    """
    directory = pathlib.Path(directory)
    path = directory / "config.gin"
    if not is_first:
        _compare(path, config)
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        _compare(path, config)
        if config:
            write_atomically(path, lambda file: file.write(config.encode()))
        yield


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


def _compare(path, config):
    if not config or not path.exists():
        return
    if not any(path.parent.glob("checkpoints/*")):
        return
    old, new = _bindings(path.read_text()), _bindings(config)
    if old == new:
        return
    differences = [f"  there: {line}" for line in old if line not in new]
    differences += [f"  now:   {line}" for line in new if line not in old]
    raise ConfigError(
        f"{path.parent} belongs to a run of another configuration. Choose "
        "another `workdir`; or, to go on with this configuration all the same, "
        f"remove {path}. Differences:\n" + "\n".join(differences)
    )


def _bindings(config):
    """The lines of a configuration that bind something."""
    lines = [line.strip() for line in config.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
