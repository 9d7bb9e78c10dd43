"""A learner small enough to run the whole loop in a test."""

from torch import nn


def build(classes, input_shape):
    channels = input_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def dropout(classes, input_shape):
    return nn.Sequential(*build(classes, input_shape)[:-1], nn.Dropout(0.5), nn.Linear(32, classes))


def tied(classes, input_shape):
    """Build with two layers that share their weights."""
    model = build(classes, input_shape)
    layers = [nn.Linear(32, 32) for _ in range(2)]
    layers[1].weight = layers[0].weight
    return nn.Sequential(*model[:-1], *layers, model[-1])
