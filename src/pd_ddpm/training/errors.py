"""Errors of a training."""


class TrainingError(RuntimeError):
    """The loss or the weights are no numbers any more; the message says where."""


class NotANumber(ArithmeticError):
    """A loss or weight is infinite or NaN, since a step."""

    def __init__(self, finding: str, step: int):
        super().__init__(finding)
        self.step = step
