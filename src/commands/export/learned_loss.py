"""The loss function that a search of amlfs learned, for any training loop in PyTorch. Needs torch alone (1.13 or newer).

    from learned_loss import LearnedLoss          # the name of this file
    loss = LearnedLoss("chosen")                  # or "mean", "means"
    for epoch in range(epochs):
        loss.set_epoch(epoch, epochs)
        for images, labels in batches:
            features = network(images)
            loss.of_features(features, weight, labels).backward()   # [N, D], class weights [C, D], labels [N]

A loop that makes its own cosines [N, C] calls `loss(cosines, labels)`. One in which the margin and cross-entropy are two
modules (insightface, fast-reid) has `loss.margin(cosines, labels)` in the place of the first, which gives logits, and
`loss.cross_entropy(logits, labels)` in the place of the second.

A loss that was searched with `loss.logit_adjustment`, for uneven classes, wants to know the training images of each class:
`LearnedLoss(class_counts=[5000, 2997, ...])`.

The loss of an example with label y is -log tau(softmax(z)_y), where z_y = s t(cos y) and the other logits are s cos j
(AM-LFS, arXiv:1905.07375, equations 16 and 17). t is made of lines, tau of lines or of powers. The gradient is that of
cross-entropy times a weight for each example, which follows from tau. It is bounded and, if the search had it so, divided
by its mean over the batch, so it is not the derivative of the value in every place; both are those of the search.

What was learned, and by which run, is at the end of this file.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

SCHEDULES = ("mean", "means", "chosen")
MIN_SLOPE = 1e-2  # t and tau grow
MIN_TAU = 1e-6  # -log tau has an end
MIN_P = 1e-30  # p / p is 1 where p underflows, too
MIN_NORM = 1e-12  # norms that divide


class LearnedLoss(nn.Module):
    """schedule: "mean", with which the search ended, in every epoch; "means", that of each of its epochs; "chosen", the loss
    of each epoch's best sample. The latter two are stretched to the epochs that `set_epoch` is told.

    scale: s of `forward` and `margin`, and of the normalised head; default: that of the run.
    class_counts [C]: training images of each class, for a loss with logit_adjustment.
    """

    def __init__(self, schedule="mean", scale=None, class_counts=None):
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r}: one of {', '.join(SCHEDULES)}")
        self.schedule = schedule
        self.offsets = None
        if LEARNED["logit_adjustment"] > 0:
            if class_counts is None:
                raise ValueError("class_counts: this loss adjusts logits by the training images of each class")
            self.offsets = [LEARNED["logit_adjustment"] * math.log(max(count, 1)) for count in class_counts]
        self.scale = LEARNED.get("scale") if scale is None else scale
        self.theta = None
        if schedule == "mean":
            self._use(LEARNED["mean"])

    def set_epoch(self, epoch, epochs):
        """Takes the loss of an epoch, counted from 0, of a training of `epochs`."""
        if not 0 <= epoch < epochs:
            raise ValueError(f"epoch {epoch} of {epochs}: 0 to {epochs - 1}, or more epochs")
        if self.schedule != "mean":
            self._use(stretched(LEARNED[self.schedule], epoch, epochs))

    def forward(self, cosines, labels):
        """Cosines [N, C] of features and class weights, labels [N] -> the mean loss."""
        return self.cross_entropy(self.margin(cosines, labels), labels)

    def of_features(self, features, weight, labels):
        """Features [N, D], class weights [C, D], labels [N] -> the mean loss, with the run's head."""
        logits = self.logits(features, weight)
        if LEARNED["head"] == "normalised":
            scale = self._scale()
        else:
            scale = norms(features)
            if LEARNED["head"] == "plain":
                scale = scale * norms(weight)[labels.flatten()]
        return self.cross_entropy(self._with_t(logits, scale, labels), labels)

    def logits(self, features, weight):
        """Features [N, D], class weights [C, D] -> logits [N, C] as at test time, without t."""
        if LEARNED["head"] == "plain":
            return F.linear(features, weight)
        weight = F.normalize(weight, eps=MIN_NORM)
        if LEARNED["head"] == "weights":
            return F.linear(features, weight)
        return self._scale() * F.linear(F.normalize(features, eps=MIN_NORM), weight)

    def margin(self, cosines, labels):
        """Cosines [N, C], labels [N] -> logits [N, C]: s cos, and s t(cos) for the label; adjusted, if the loss does so."""
        scale = self._scale()
        return self._with_t(scale * full(cosines), scale, labels)

    def cross_entropy(self, logits, labels):
        """Logits [N, C] with t, labels [N] -> the mean of -log tau(softmax(logits)_y)."""
        self._started()
        nll = F.cross_entropy(full(logits), labels.flatten(), reduction="none")
        value, weight = self.weigh(nll.detach())
        # its value is `value`, and its gradient `weight` times cross-entropy's
        return (value + weight * (nll - nll.detach())).mean()

    def weigh(self, nll):
        """-log p [N] of the labels -> the values [N] of the loss and the weights [N] of the examples' gradients."""
        p = torch.exp(-nll)
        slope, intercept = at(self.tau_pieces, p, 0.0)
        if LEARNED["space"] == "lines":
            # tau = slope p + intercept has the weight slope p / tau
            floored = p.clamp_min(MIN_P)
            tau = floored + intercept / slope
            weight = (floored / tau).masked_fill(tau <= floored / LEARNED["w_max"], LEARNED["w_max"])
            weight = weight.clamp(0.0, LEARNED["w_max"])
            value = -torch.log((slope * p + intercept).clamp_min(MIN_TAU))
            # the same without a floor
            value = torch.where(intercept == 0, nll - torch.log(slope), value)
        else:
            # -log tau = slope nll + intercept has the weight slope
            weight = slope.clamp_max(LEARNED["w_max"])
            value = slope * nll + intercept
        if LEARNED["tau_weights"] == "normalised":
            weight = weight / weight.mean().clamp_min(MIN_TAU)
        return value, weight

    def extra_repr(self):
        run = LEARNED["run"]
        return (f"schedule={self.schedule}, scale={self.scale}, head={LEARNED['head']}, space={LEARNED['space']}, "
                f"{run['epoch']} of {run['epochs']} epochs of {run['checkpoint']}")

    def _use(self, theta):
        self.theta = theta
        pieces = lines if LEARNED["space"] == "lines" else lines_of_derivatives
        self.t_pieces, self.tau_pieces = pieces(theta)

    def _started(self):
        if self.theta is None:
            raise RuntimeError(f"schedule {self.schedule!r} changes the loss: call set_epoch(epoch, epochs) first")

    def _scale(self):
        if self.scale is None:
            raise ValueError(f"the run's head was {LEARNED['head']!r}, whose logits have no fixed scale: "
                             "give one, LearnedLoss(scale=...), or call of_features")
        return self.scale

    def _with_t(self, logits, scale, labels):
        """Logits [N, C] with the label's s cos (s: a number or [N]) replaced by s t(cos)."""
        self._started()
        logits, labels = full(logits), labels.view(-1, 1)
        target = logits.gather(1, labels)[:, 0]
        slope, intercept = at(self.t_pieces, target.detach() / scale, -1.0)
        logits = logits.scatter(1, labels, (slope * target + intercept * scale)[:, None])
        return logits if self.offsets is None else logits + logits.new_tensor(self.offsets)


def stretched(rows, epoch, epochs):
    """`rows` over `epochs` epochs: epoch `epoch` takes the place of its middle, between the two nearest rows."""
    place = min(max((epoch + 0.5) * len(rows) / epochs - 0.5, 0.0), len(rows) - 1.0)
    low, share = int(place), place % 1.0
    high = min(low + 1, len(rows) - 1)
    return [a + share * (b - a) for a, b in zip(rows[low], rows[high])]


def lines(theta):
    """theta [4M] = slopes and intercepts of t, then those of tau -> (slopes, intercepts) of t and of tau."""
    count = len(theta) // 4
    t_slope, t_bias, tau_slope, tau_bias = (theta[i * count:(i + 1) * count] for i in range(4))
    return ([max(slope, MIN_SLOPE) for slope in t_slope], t_bias), ([max(slope, MIN_SLOPE) for slope in tau_slope], tau_bias)


def lines_of_derivatives(theta):
    """theta [2M + 1] = log t'_1 .. log t'_M, t(0), log w_1 .. log w_M -> (slopes, intercepts) of t by the cosine and of the
    loss by -log p. Both are continuous, and the loss of p = 1 is 0."""
    count = len(theta) // 2
    if LEARNED["tau_weights"] == "normalised":  # relative weights have no level
        level = sum(theta[count + 1:]) / count
        theta = theta[:count + 1] + [log - level for log in theta[count + 1:]]
    slopes, weights = [math.exp(x) for x in theta[:count]], [math.exp(x) for x in theta[count + 1:]]
    # from the interval of 0 to both sides: neighbours meet at their knot
    intercepts, middle = [theta[count]] * count, count // 2
    for i in range(middle + 1, count):
        intercepts[i] = intercepts[i - 1] + (slopes[i - 1] - slopes[i]) * (-1.0 + 2.0 * i / count)
    for i in reversed(range(middle)):
        intercepts[i] = intercepts[i + 1] + (slopes[i + 1] - slopes[i]) * (-1.0 + 2.0 * (i + 1) / count)
    constants = [0.0] * count
    for i in reversed(range(count - 1)):
        constants[i] = constants[i + 1] + (weights[i + 1] - weights[i]) * math.log(count / (i + 1))
    return (slopes, intercepts), (weights, constants)


def at(pieces, x, low):
    """Slope and intercept [N] at x [N]: of M equal intervals from `low` to 1; outside, the nearest one's."""
    slopes, intercepts = pieces
    place = (x - low) * (len(slopes) / (1.0 - low))
    interval = place.nan_to_num(0.0).floor().clamp(0, len(slopes) - 1).long()
    return x.new_tensor(slopes)[interval], x.new_tensor(intercepts)[interval]


def norms(x):
    """[N, D] -> [N]"""
    return torch.linalg.vector_norm(full(x), dim=1).clamp_min(MIN_NORM)


def full(x):
    """At least single precision, under autocast, too."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


# The components of theta are named; "means" and "chosen" have a row for each epoch. docs/format.md of amlfs has it all.
LEARNED = {
    "run": {"checkpoint": "none: this is softmax", "epoch": 0, "epochs": 0},
    "head": "plain",
    "space": "lines",
    "w_max": 4.0,
    "tau_weights": "raw",
    "logit_adjustment": 0.0,
    "mean": [1.0, 0.0, 1.0, 0.0],
    "means": [[1.0, 0.0, 1.0, 0.0]],
    "chosen": [[1.0, 0.0, 1.0, 0.0]]
}
