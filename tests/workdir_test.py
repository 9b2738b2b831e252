import subprocess
import sys

import pytest

from diffstride.training.workdir import ConfigError, Configuration, claimed

CLAIM = """
import os, sys
from diffstride.training.workdir import Configuration, claimed
with claimed(sys.argv[1], Configuration()):
    print("claimed", flush=True)
    os.fork()
    sys.stdin.read()
"""


def claim(directory, config="", **kwargs):
    with claimed(directory, Configuration(config), **kwargs):
        return (directory / "config.gin").exists()


def test_another_configuration_is_refused(tmp_path):
    assert not claim(tmp_path)
    assert not claim(tmp_path, "seed = 1\nrate = 0.1\n", is_first=False)
    assert claim(tmp_path, "# Comment\nseed = 1\nrate = 0.1\n")
    # Nothing is lost before there is a checkpoint.
    claim(tmp_path, "seed = 0\nrate = 0.1\n")
    claim(tmp_path, "seed = 1\n\n# Another\nrate = 0.1\n")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "3.npz").touch()
    claim(tmp_path, "seed = 1\n\n# A third\nrate = 0.1\n")
    for is_first in (True, False):
        with pytest.raises(ConfigError) as error:
            claim(
                tmp_path,
                "seed = 2\nrate = 0.1\nmomentum = 0.9\n",
                is_first=is_first,
            )
        first, *lines = str(error.value).splitlines()
        assert str(tmp_path) in first
        assert lines == [
            "  there: seed = 1",
            "  now:   seed = 2",
            "  now:   momentum = 0.9",
        ]
    assert "seed = 1" in (tmp_path / "config.gin").read_text()


def test_one_process_at_a_time(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(ConfigError) as error:
        claim(tmp_path)
    assert f"{tmp_path} is in use by process {process.pid} on" in str(
        error.value
    )
    claim(tmp_path, is_first=False)  # It does not write.
    process.kill()  # Its child lives on, without the lock.
    process.wait()
    claim(tmp_path)
    process.stdin.close()
    process.stdout.close()
