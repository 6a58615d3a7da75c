# ruff: noqa: TID253
"""A training in its run folder: the loop, and what surrounds it (evaluation, checkpoints, loggers, observers)."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from detloom.data.balance import image_rates
from detloom.data.caching import PixelStore, build_stores
from detloom.data.dataset import Split, select_images
from detloom.data.loader import EvalLoader, TrainLoader, build_transforms
from detloom.errors import CheckpointError, DataError, DetloomError
from detloom.evaluate import COCOEvaluator, Evaluation, PassOptions
from detloom.events import CheckpointSaved, EpochFinished, EpochStarted, ValidationFinished
from detloom.files import atomic_path
from detloom.geometry import Detections
from detloom.model import describe
from detloom.progress import Reading
from detloom.train.assemble import BuiltModel, LoopNeeds, build_loop, choose_device, choose_precision, place
from detloom.train.checkpoint import BEST, LAST, read_checkpoint, save_checkpoint
from detloom.train.loop import Hooks, Loop, LoopPlan, Stateful
from detloom.train.lora import merged_state, without_adapters
from detloom.weight_transfer import why_unfit

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost
    from detloom.logging_fanout import LoggerFanout
    from detloom.run_folder import RunRecorder

log = logging.getLogger("detloom")


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session is given besides its parts."""

    resolved: ResolvedConfig
    host: PluginHost
    dataset: Dataset
    recorder: RunRecorder
    stop_requested: Callable[[], bool]
    keep_checkpoint: Callable[[Literal["last", "best"], Path, int, int], None]


class Session:
    """Built once for a run; `train` runs the loop, `evaluate_split` and `use_best` serve what comes after it."""

    def __init__(self, around: Surroundings, model: BuiltModel) -> None:
        self.around, self.model = around, model
        self.folder = around.recorder.folder
        self.config = around.resolved.config
        self.device = choose_device(self.config.training.device)
        self.precision = choose_precision(self.config.training, self.device)
        self.detector = model.detector
        place(self.detector, self.device, self.config.training)
        self.train_split, self.val_split = self._splits()
        self.pixels = self._pixels()
        self.loader = self._train_loader()
        self.plan = self._plan()
        self.fanout: LoggerFanout | None = None
        self.loop = self._loop()

    # ---- parts -------------------------------------------------------------------------------------------------

    def _splits(self) -> tuple[Split, Split]:
        splits, limit = self.around.dataset.splits, self.config.training.overfit_batches
        train, val = splits["train"], splits["val"]
        if not len(train):
            raise DataError("the training split holds no image that can be used")
        if limit:
            images = min(limit * self.config.training.batch_size, len(train))
            train = select_images(train, range(images))
            val = dataclasses.replace(train, name="val")
        return train, val

    def _pixels(self) -> dict[str, PixelStore | None]:
        """What is read once: the split that is trained on, and the one that every evaluation reads again."""
        splits = {"train": self.train_split, "val": self.val_split}
        with Reading("caching the images") as reading:
            stores = build_stores(
                list(splits.values()),
                self.detector.input_rule,
                self.config.data.cache,
                progress=reading.update,
                stop_requested=self.around.stop_requested,
            )
        return dict(zip(splits, stores, strict=True))

    def _train_loader(self) -> TrainLoader:
        data, training = self.config.data, self.config.training
        transforms = [] if training.overfit_batches else build_transforms(self.around.resolved, self.around.host)
        return TrainLoader(
            self.train_split,
            self.detector.input_rule,
            transforms,
            batch_size=training.batch_size,
            seed=training.seed,
            num_workers=data.num_workers,
            prefetch_factor=data.prefetch_factor,
            persistent_workers=data.persistent_workers,
            pin_memory=data.pin_memory and self.device.type == "cuda",
            rates=None
            if training.overfit_batches
            else image_rates(self.train_split, data.balance, data.balance_threshold),
            pixels=self.pixels["train"],
            masks=self.detector.masks,
        )

    def eval_loader(self, split: Split) -> EvalLoader:
        size = self.config.validation.batch_size or self.config.training.batch_size
        return EvalLoader(
            split,
            self.detector.input_rule,
            batch_size=size,
            num_workers=self.config.data.num_workers,
            pixels=self.pixels["val"] if split is self.val_split else None,
            masks=self.detector.masks,
        )

    def _plan(self) -> LoopPlan:
        training, validation = self.config.training, self.config.validation
        steps_per_epoch = math.ceil(self.loader.batches_per_epoch / training.gradient_accumulation)
        total = training.max_steps or training.epochs * steps_per_epoch
        return LoopPlan(
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            total_epochs=math.ceil(total / steps_per_epoch),
            eval_interval=validation.interval,
            eval_start_epoch=validation.start_epoch,
            best_metric=validation.save_best_metric,
            log_interval=self.config.experiment.logging.log_interval,
        )

    def _loop(self) -> Loop:
        hooks = Hooks(
            log=self._log,
            epoch_started=self._epoch_started_at,
            evaluate=self._evaluate_epoch,
            epoch_finished=self._epoch_finished,
            save=self._save,
            stop_requested=self.around.stop_requested,
            keep_broken=self._keep_broken,
        )
        parts: dict[str, object] = {**self.model.losses, **self.loader.plugins}
        plugins = {name: part for name, part in parts.items() if isinstance(part, Stateful)}
        needs = LoopNeeds(
            self.loader,
            self.plan,
            hooks,
            self.device,
            self.precision,
            keep_warmup=self._is_users("training.warmup_steps") or self._is_users("training.warmup_epochs"),
            plugins=plugins,
        )
        return build_loop(self.model, self.config.training, needs)

    def _is_users(self, key: str) -> bool:
        origin = self.around.resolved.origins.get(key)
        return origin is not None and origin.by_user

    # ---- while training ----------------------------------------------------------------------------------------

    def train(self, fanout: LoggerFanout) -> str:
        """Run the loop to its end. Returns `completed`, `stopped early` or `interrupted`."""
        self.fanout = fanout
        for warning in self.model.freezing.unreached(self.plan.total_epochs):
            self.around.recorder.warn(warning)
        self._epoch_started = time.perf_counter()
        status = self.loop.run()
        if status != "interrupted" and not (self._checkpoints / BEST).is_file():
            self._save("best", {})  # no evaluation gave a number: the last weights are the best there are
        return status

    def _log(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        if self.fanout is not None:
            self.fanout.scalars(values, step, epoch)

    def _epoch_started_at(self, epoch: int, step: int) -> None:
        self.around.host.notify("epoch_started", EpochStarted(self.folder, epoch, step))

    def _evaluate_epoch(self, epoch: int) -> dict[str, float]:
        metrics = self._validated()
        step = self.loop.progress.step
        self.around.host.notify("validation_finished", ValidationFinished(self.folder, epoch, step, dict(metrics)))
        return metrics

    def _validated(self) -> dict[str, float]:
        with self._averaged():
            evaluation, _, losses = self.evaluate_split(self.val_split)
        if not evaluation.truths:  # AP of nothing is no judgement: the last weights will be the best
            return {f"val/{name}": value for name, value in losses.items()}
        return {**evaluation.scalars("val"), **{f"val/{name}": value for name, value in losses.items()}}

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """The detector with the weights that are evaluated and exported."""
        averaged = self.loop.averaged if self.config.validation.use_ema else None
        return contextlib.nullcontext() if averaged is None else averaged.applied(self.detector)

    def evaluate_split(
        self, split: Split, *, full_precision: bool = False
    ) -> tuple[Evaluation, list[Detections], dict[str, float]]:
        """With the weights that the detector has now. Returns numbers, detections by image, losses."""
        dataset = self.around.dataset
        evaluator = COCOEvaluator(
            split,
            dataset.class_map,
            masks=self.detector.masks,
            max_detections=self.config.validation.max_detections,
        )
        if full_precision and self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # nothing is trained after
        autocast = None if full_precision or self.precision == torch.float32 else self.precision
        evaluation = evaluator.evaluate(
            self.detector, self.eval_loader(split), PassOptions(autocast=autocast, loss=True)
        )
        return evaluation, evaluator.detections, evaluator.losses

    def _epoch_finished(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        values = {**metrics, "epoch/time_s": time.perf_counter() - self._epoch_started}
        self._epoch_started = time.perf_counter()
        self._log(values, step, epoch)
        self.around.host.notify("epoch_finished", EpochFinished(self.folder, epoch, step, dict(values)))

    # ---- checkpoints -------------------------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _save(self, kind: str, metrics: Mapping[str, float]) -> None:
        progress = self.loop.progress
        numbers = {name: float(value) for name, value in metrics.items() if name.startswith("val/")}
        note = {"epoch": progress.epoch, "step": progress.step, "metrics": numbers}
        payload: dict[str, Any] = {
            **describe(
                self.detector,
                self.around.host.qualified(self.model.spec),
                self.around.resolved.settings(self.model.spec),
                self.around.dataset.class_map,
                self.around.resolved.to_dict(),
                {"name": self.around.dataset.name, "digest": self.around.dataset.digest},
            ),
            **note,
            "weights": self._weights(),
        }
        if kind == "last":
            payload["training"] = self.loop.state_dict()
        path = save_checkpoint(self._checkpoints, BEST if kind == "best" else LAST, payload, note)
        self.around.keep_checkpoint("best" if kind == "best" else "last", path, progress.epoch, progress.step)
        event = CheckpointSaved(self.folder, path, progress.epoch, kind == "best")
        self.around.host.notify("checkpoint_saved", event)

    def _weights(self) -> dict[str, Tensor]:
        """What is evaluated and exported: the averaged weights where they are used, adapters merged into them."""
        with self._averaged():
            return {name: tensor.detach().clone() for name, tensor in merged_state(self.detector).items()}

    def _keep_broken(self, broken: Mapping[str, Any]) -> str:
        """The batches of a step that was not finite, with the names of their images."""
        images = self.train_split.images
        names = [images[index].file_name for batch in broken["batches"] for index in batch["indices"]]
        path = self.folder / "diverged" / f"step-{broken['step']:06d}.pt"
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as part:
                torch.save({"format": 1, **broken, "file_names": names}, part)
        except (OSError, RuntimeError, DetloomError) as error:
            return f"its batch could not be kept ({error})"
        return f"its batch is kept in {path} ({', '.join(names[:8])}{', ...' if names[8:] else ''})"

    def resume_from(self, payload: Mapping[str, Any], path: Path) -> None:
        """Go on from a state of this run. Raises CheckpointError when it belongs to other data or another model."""
        if "training" not in payload:
            raise CheckpointError(f"{path} holds weights only", hint="resume from a run's folder")
        kind = self.around.host.qualified(self.model.spec)
        if payload["model"]["type"] != kind:
            raise CheckpointError(
                f"{path} is a state of {payload['model']['type']}, and the configuration says {kind}",
                hint="a resumed run must be the same run: start a new one",
            )
        digest = payload["data"]["digest"]
        if digest != self.around.dataset.digest:
            raise CheckpointError(
                f"the data have changed since {path} was saved (digest {digest[:12]}, now "
                f"{self.around.dataset.digest[:12]})",
                hint="a resumed run must be the same run: start a new one with --weights from this checkpoint",
            )
        if payload["model"]["classes"] != self.around.dataset.class_map.to_list():
            was = ", ".join(row["name"] for row in payload["model"]["classes"])
            raise CheckpointError(
                f"the classes have other ids or another order now: {was} when {path} was saved, "
                f"{', '.join(self.around.dataset.class_map.names)} in the data",
                hint="a resumed run must be the same run: give the classes their old ids, or start a new one",
            )
        try:
            self.loop.load_state_dict(payload["training"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not fit this configuration: {why_unfit(error)}",
                hint="resume with the configuration that the run was started with",
            ) from error
        if not (self._checkpoints / BEST).is_file():
            self.loop.best.best = None  # the best weights stayed elsewhere: the best of what follows counts
        for problem in self.loop.problems:
            self.around.recorder.warn(problem)
        log.info("resumed from %s: epoch %d, step %d", path, self.loop.progress.epoch + 1, self.loop.progress.step)

    def use_best(self) -> dict[str, Any]:
        """Load the weights of best.pt into the detector; returns its payload."""
        payload = read_checkpoint(self._checkpoints / BEST)
        self.detector = without_adapters(self.detector)
        self.detector.load_saved_state(payload["weights"])
        self.detector.eval()
        return payload
