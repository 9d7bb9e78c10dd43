"""One thread a test process: several run side by side (pytest -n), and results repeat."""

import torch

torch.set_num_threads(1)
