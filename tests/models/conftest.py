"""One thread: the machine is shared, and tiny tensors gain nothing from a second."""

import torch

torch.set_num_threads(1)
