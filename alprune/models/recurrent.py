"""Recurrent networks that read an image row by row: SNIP's LSTM-s/b and GRU-s/b."""

from torch import Tensor, nn


class RowRNN(nn.Module):
    """A linear layer on each row, one recurrent layer, a linear layer on its last output."""

    def __init__(self, row: int, classes: int, rnn: nn.LSTM | nn.GRU):
        super().__init__()
        self.embed = nn.Linear(row, rnn.input_size)
        self.rnn = rnn
        self.fc = nn.Linear(rnn.hidden_size, classes)
        # The cell has one bias in the paper, PyTorch's has two. The second is frozen at zero.
        nn.init.zeros_(rnn.get_parameter("bias_hh_l0")).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        rows = x.transpose(1, 2).flatten(2)  # (b, h, c * w)
        out, _ = self.rnn(self.embed(rows))
        return self.fc(out[:, -1])


def lstm(hidden: int, classes: int, input_shape: tuple[int, int, int]) -> RowRNN:
    """LSTM-s (`hidden` = 128) and LSTM-b (256) of SNIP.

    At 1x28x28 and 10 classes: 136,586 and 535,306 trainable parameters (paper: 137k and 535k);
    3,771,648 and 14,883,328 multiply-accumulates. Takes `(b, c, h, w)`, any h.

    Source: Lee et al. 2019, table 2 and section 5.3, which gives the units, one layer and one
    row for each step. The counts are met to the digit by a linear layer of `hidden` in front of the
    cell and one bias a gate, and not without them (LSTM-s would have 82k).
    """
    return _rows(nn.LSTM(hidden, hidden, batch_first=True), classes, input_shape)


def gru(hidden: int, classes: int, input_shape: tuple[int, int, int]) -> RowRNN:
    """GRU-s (`hidden` = 128) and GRU-b (256) of SNIP.

    At 1x28x28 and 10 classes: 103,690 and 403,978 trainable parameters (paper: 104k and 404k);
    2,854,144 and 11,213,312 multiply-accumulates. The layout follows from the counts as in
    `lstm`. PyTorch's cell applies the reset gate after the recurrent product, Cho et al.'s before.

    Source: Lee et al. 2019, table 2 and section 5.3.
    """
    return _rows(nn.GRU(hidden, hidden, batch_first=True), classes, input_shape)


def _rows(rnn: nn.LSTM | nn.GRU, classes: int, input_shape: tuple[int, int, int]) -> RowRNN:
    channels, _, width = input_shape
    return RowRNN(channels * width, classes, rnn)
