"""Tests that start processes."""

import os
import subprocess
import sys

# One thread each, because two processes with all threads wait for each other; no GPU, so that all machines compute alike.
PROCESS = {"cwd": os.getcwd(), "env": os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, "text": True}


def run_two_processes(*arguments):
    """Run a script (or "-m", module) with its arguments as `torchrun --nproc_per_node 2` does; it must succeed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300, **PROCESS)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
