"""The estimator: scikit-learn's classifier interface around the network."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import nn

from exlstm.classify.attribution import Attribution, integrated_gradients
from exlstm.classify.calibration import fit_temperature
from exlstm.classify.encoding import Encoding, Inputs
from exlstm.classify.fitting import Fitting, held_out
from exlstm.classify.records import Padded, Record, pad
from exlstm.estimators import Saved, Training, read, write
from exlstm.models.classifier import ClassifierConfig, Pooling, XLSTMSequenceClassifier

_ROWS = 256  # at once in prediction


class XLSTMClassifier(ClassifierMixin, BaseEstimator):
    """Classes of sequences of any length: numbers, several channels, irregular times, event codes.

    `X` is an array (N, T) or (N, T, C), or a list of arrays (T,) or (T, C) or of `Record`; NaN is a
    missing value. Sequences in `predict` may be longer or shorter than those in `fit`.

    Args:
        pattern: One letter a block; see `exlstm.nn.XLSTMStack`.
        d_model: Width of the network.
        num_heads: Heads in every block; divides `d_model`.
        input_width: How many steps' numbers are read together at each step.
        stride: Only every so many steps are read, counted back from the last; at most
            `input_width`, so that none is left out. Larger is faster.
        pooling: What an answer is made of: the network's output at the `last` step, the `mean` over
            the steps up to it, or `both`.
        dropout: Share that is dropped in training.
        num_networks: How many are trained; their logits are averaged.
        shift: In training, sequences begin up to so many steps earlier or later.
        noise: In training, standard deviation of what is added to the standardised numbers.
        class_weight: Of errors in training: `None` is all alike, "balanced" is inversely to how
            frequent a class is, or a dict from class to weight.
        early: Whether training also asks for the class after each step; for
            `predict_proba_steps`.
        calibrate: Whether the probabilities are brought to the right confidence on the held-out
            records.
        unseen_codes: In `predict`, codes that were not in `fit` are an "error", or read as no code
            ("ignore").
        validation_fraction: Share of the records of each class that is held out, to stop where they
            are classified best; 0 trains on all for `max_epochs`.
        max_epochs: Passes over the records, at most.
        batch_size: Records a step of training.
        learning_rate: Its peak.
        weight_decay: Of matrices.
        patience: Training stops after so many epochs that were not better.
        random_state: Seed, or scikit-learn's kind of generator.

    Attributes:
        classes_: The classes, sorted.
        history_: For each network a line an epoch: its losses.
        temperature_: What logits are divided by; 1 without `calibrate`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(["falls", "rises"], 20)
        >>> slope = np.where(y == "rises", 1.0, -1.0)[:, None]
        >>> X = slope * np.linspace(-1, 1, 12) + 0.1 * rng.normal(size=(40, 12))
        >>> classifier = XLSTMClassifier(d_model=16, max_epochs=15, random_state=0).fit(X, y)
        >>> classifier.predict([X[0], X[-1, :9]]).tolist()
        ['falls', 'rises']
    """

    def __init__(
        self,
        *,
        pattern: str = "m",
        d_model: int = 32,
        num_heads: int = 4,
        input_width: int = 8,
        stride: int = 1,
        pooling: Pooling = "both",
        dropout: float = 0.1,
        num_networks: int = 1,
        shift: int = 0,
        noise: float = 0.0,
        class_weight: Literal["balanced"] | dict[Any, float] | None = None,
        early: bool = False,
        calibrate: bool = False,
        unseen_codes: Literal["error", "ignore"] = "error",
        validation_fraction: float = 0.15,
        max_epochs: int = 60,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        patience: int = 15,
        random_state: Any = None,
    ) -> None:
        self.pattern = pattern
        self.d_model = d_model
        self.num_heads = num_heads
        self.input_width = input_width
        self.stride = stride
        self.pooling: Pooling = pooling
        self.dropout = dropout
        self.num_networks = num_networks
        self.shift = shift
        self.noise = noise
        self.class_weight = class_weight
        self.early = early
        self.calibrate = calibrate
        self.unseen_codes: Literal["error", "ignore"] = unseen_codes
        self.validation_fraction = validation_fraction
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Learn from records and their classes.

        Raises:
            ValueError: The records, the classes or a parameter are not as documented.
        """
        self._check_parameters()
        training = Training(
            max_epochs=self.max_epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            patience=self.patience,
        )  # fmt: skip
        if y is None:
            raise ValueError("fit requires y to be passed, but the target y is None")
        padded = _padded(X)
        labels = column_or_1d(y, warn=True)
        check_consistent_length(padded.lengths, labels)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_[0]!r}; at least 2 are needed")
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)
        rng = check_random_state(self.random_state)

        held = held_out(numbers, self.validation_fraction, rng)
        if self.calibrate and not held.any():
            raise ValueError(
                f"calibrate=True needs held-out records, but {self.validation_fraction} "
                f"(validation_fraction) of {np.bincount(numbers).tolist()} in the classes is none"
            )
        self._encoding = Encoding.of(padded)
        inputs = self._encoding.encode(padded, "error")
        targets = torch.from_numpy(numbers)
        config = self._config()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.randint(2**31))
            networks = [self._network(config) for _ in range(self.num_networks)]
            self._networks = nn.ModuleList(networks)
            weight = torch.tensor(weights / weights[numbers].mean(), dtype=torch.float32)
            fitting = Fitting(
                inputs, targets, weight, torch.from_numpy(held), early=self.early,
                shift=self.shift, noise=self.noise, num_channels=len(self._encoding.mean),
            )  # fmt: skip
            self.history_ = [
                fitting.run(network, training, int(rng.randint(2**31))) for network in networks
            ]
        self.temperature_ = 1.0
        if self.calibrate:
            logits = self._logits(inputs.rows(torch.from_numpy(held.nonzero()[0])))
            self.temperature_ = fit_temperature(logits, numbers[held])
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each record, (N,)."""
        chosen = self.predict_proba(X).argmax(1)
        return self.classes_[chosen]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities (N, A) of the classes, in the order of `classes_`."""
        return self._probabilities(self._logits(self._encoded(X)))

    def predict_proba_steps(self, X: Any) -> NDArray[np.float64]:
        """Probabilities (N, T, A) after each step, as if the record ended there.

        They do not change with what comes later. Behind the end of a record they are NaN. Train
        with `early=True` if they matter.
        """
        inputs = self._encoded(X)
        probabilities = self._probabilities(self._logits(inputs, every_step=True))
        steps = np.arange(probabilities.shape[1])
        probabilities[steps >= inputs.lengths.numpy()[:, None]] = np.nan
        return probabilities

    def attribute(
        self, X: Any, target: ArrayLike | None = None, *, tolerance: float = 1e-3
    ) -> Attribution:
        """What each step adds to the logit of a class, by integrated gradients.

        The path goes from a record at the training mean, without missing values, with no time
        between its steps and without codes, in a straight line to the given one.

        Args:
            X: Records.
            target: Class of each record that is explained; `None` is the predicted one.
            tolerance: How much the sum of a record's attributions may miss the logits' difference,
                as a share of it, or of 1 if it is smaller. There is a warning if it misses more.

        Raises:
            ValueError: A target is no class, or there is not one for each record.

        Reference:
            Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365.
        """
        inputs = self._encoded(X)
        if target is None:
            numbers = self._logits(inputs).argmax(1)
        else:
            wanted = column_or_1d(target)
            check_consistent_length(inputs.lengths, wanted)
            if unknown := [one for one in wanted.tolist() if one not in self.classes_]:
                raise ValueError(
                    f"target {unknown[0]!r} is no class; there are {self.classes_.tolist()}"
                )
            numbers = np.searchsorted(self.classes_, wanted)
        return integrated_gradients(
            self._networks, inputs, torch.from_numpy(numbers), self.classes_[numbers],
            self._encoding.names, tolerance,
        )  # fmt: skip

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted estimator as a new folder of JSON and safetensors.

        Raises:
            ValueError: There is something of that name.
            TypeError: `random_state` is a generator.
        """
        check_is_fitted(self)
        parameters = self.get_params()
        if isinstance(self.class_weight, dict):
            pairs = [[_plain(key), weight] for key, weight in self.class_weight.items()]
            parameters["class_weight"] = pairs
        fitted = {
            "classes": {"dtype": self.classes_.dtype.str, "values": self.classes_.tolist()},
            "encoding": dataclasses.asdict(self._encoding),
            "history": self.history_,
            "temperature": self.temperature_,
        }
        write(folder, Saved("XLSTMClassifier", parameters, fitted, self._networks.state_dict()))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; it predicts the same to the bit.

        Raises:
            ValueError: The folder holds no classifier, or is damaged.
        """
        saved = read(folder, "XLSTMClassifier")
        parameters = dict(saved.parameters)
        if isinstance(parameters["class_weight"], list):
            parameters["class_weight"] = dict(parameters["class_weight"])
        self = cls(**parameters)
        fields: dict[str, Any] = {
            name: tuple(field) if isinstance(field, list) else field
            for name, field in saved.fitted["encoding"].items()
        }
        self._encoding = Encoding(**fields)
        classes = saved.fitted["classes"]
        self.classes_ = np.array(classes["values"], dtype=classes["dtype"])
        self.history_ = saved.fitted["history"]
        self.temperature_ = saved.fitted["temperature"]
        config = self._config()
        self._networks = nn.ModuleList(self._network(config) for _ in range(self.num_networks))
        self._networks.load_state_dict(dict(saved.tensors))
        self._networks.eval()
        return self

    def _check_parameters(self) -> None:
        for name, least in (("num_networks", 1), ("shift", 0), ("noise", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction must be at least 0 and below 1, "
                f"got {self.validation_fraction}"
            )
        if self.unseen_codes not in ("error", "ignore"):
            raise ValueError(f"unseen_codes must be 'error' or 'ignore', got {self.unseen_codes!r}")

    def _config(self) -> ClassifierConfig:
        return ClassifierConfig(
            num_classes=len(self.classes_), num_inputs=self._encoding.num_inputs,
            num_codes=self._encoding.num_codes, input_width=self.input_width,
            pattern=self.pattern, d_model=self.d_model, num_heads=self.num_heads,
            dropout=self.dropout, pooling=self.pooling, stride=self.stride,
        )  # fmt: skip

    def _network(self, config: ClassifierConfig) -> nn.Module:
        network = XLSTMSequenceClassifier(config)
        if channels := len(self._encoding.mean):
            # Of what training never misses nothing is learnt: then that it is missing says nothing.
            missing = slice(channels * self.input_width, 2 * channels * self.input_width)
            with torch.no_grad():
                network.inputs.weight[:, missing] = 0
        return network

    def _encoded(self, X: Any) -> Inputs:
        check_is_fitted(self)
        return self._encoding.encode(_padded(X), self.unseen_codes)

    def _logits(self, inputs: Inputs, *, every_step: bool = False) -> NDArray[np.float32]:
        """(N, A), or (N, T, A) with zeros behind the ends; the mean over the networks."""
        shape = (len(inputs), int(inputs.lengths.max()), len(self.classes_))
        found = np.zeros(shape if every_step else shape[::2], np.float32)
        with torch.no_grad():
            for rows in torch.arange(len(inputs)).split(_ROWS):
                one = inputs.rows(rows)
                logits = torch.stack([
                    network(one.values, one.codes, one.lengths, every_step=every_step)
                    for network in self._networks
                ]).mean(0)  # fmt: skip
                place = (rows.numpy(), slice(logits.shape[1])) if every_step else rows.numpy()
                found[place] = logits.numpy()
        return found

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = torch.from_numpy(logits).double() / self.temperature_
        return scaled.softmax(-1).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags


def _padded(X: Any) -> Padded:
    """Any input; tables and arrays go through scikit-learn's checks."""
    if isinstance(X, list | tuple | Record) or (
        isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1
    ):
        return pad(X)
    checks: dict[str, Any] = {"ensure_all_finite": "allow-nan", "allow_nd": True}
    return pad(check_array(X, dtype="numeric", **checks))


def _plain(one: Any) -> Any:
    return one.item() if isinstance(one, np.generic) else one
