"""Parts of a run that fail."""

import os
import signal


def raises(evidence, count, generator):
    raise ValueError("boom")


def killed(evidence, count, generator):
    os.kill(os.getpid(), signal.SIGKILL)
