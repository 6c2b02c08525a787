# SPDX-License-Identifier: Apache-2.0
"""Write the golden files anew: ``python -m tests.unit.virt.configdrive.regenerate``. Read the diff."""

import pathlib
import shutil

from compute_agent.virt import configdrive
from tests.unit.virt.configdrive.conftest import full

GOLDEN = pathlib.Path(__file__).with_name("golden")

if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, contents in configdrive.files(full()).items():
        path = GOLDEN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
