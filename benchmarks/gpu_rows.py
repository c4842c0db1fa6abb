"""Measure the paper's denoiser on a GPU next to MONAI and diffusers: ceilings, forward passes, chains, noise, training.

All networks have the architecture of `peers` and random weights, on which the time does not depend. Ours run as in jobs, with
weights in half precision for sampling, and under autocast in training. MONAI runs under autocast, diffusers with weights in
half precision. A peer whose package is missing gives a row that says so.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.gpu_timing import Timing, time_call, wait_for
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import ancestral
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.starts import NoiseStart
from pd_ddpm.inference.compiled_network import CompiledNetwork
from pd_ddpm.inference.segmenters import DiffusionSegmenter
from pd_ddpm.runtime.precision import PRECISIONS, prepare_for_inference, set_matmul_precision, unsupported_reason
from pd_ddpm.training.trainer import Trainer

T = 1000
IMAGE_CHANNELS = 2  # FLAIR and T1

Call = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Sizes and repetitions of the measurements.

    Attributes:
        channels: width of the networks.
        size: (height, width) of the images in pixels.
        batch: images of the rows with targets.
        further_batches: images of further rows.
        training_batch: patches per training step.
        training_steps: training steps that are timed together.
        reverse_steps: steps of a timed chain.
        matrix: rows and columns of the matrices whose product is the ceiling.
        copied_bytes: bytes of the copy on the device.
        calls: timed calls.
    """

    channels: int = 128
    size: tuple[int, int] = (128, 192)
    batch: int = 60
    further_batches: tuple[int, ...] = (5, 20, 128)
    training_batch: int = 12
    training_steps: int = 10
    reverse_steps: int = 10
    matrix: int = 8192
    copied_bytes: int = 2**30
    calls: int = 5


@dataclass(frozen=True)
class GpuRow:
    """One row of the table.

    Attributes:
        what: the measured operation.
        who: "ours" and how, or the peer.
        timing: time of one call; None if it was not measured.
        flops: operations of one call.
        target: a condition that the row is to meet, in words, and whether it does.
        remark: why it was not measured, or information.
    """

    what: str
    who: str
    timing: Timing | None = None
    flops: float | None = None
    target: tuple[str, bool] | None = None
    remark: str = ""

    @property
    def teraflops(self) -> float | None:
        """Operations per second in units of 10^12."""
        return self.flops / self.timing.milliseconds / 1e9 if self.timing and self.flops else None


@dataclass(frozen=True)
class Bench:
    """The measurements on one device.

    Attributes:
        device: the device.
        sizes: sizes and repetitions.
    """

    device: torch.device
    sizes: Sizes

    def sections(self) -> dict[str, Callable[[], Iterator[GpuRow]]]:
        """Return name -> measurement, the most important first, since the time may end."""
        return {
            "ceilings": self.ceilings,
            "forward": self.forward,
            "training": self.training,
            "chain": self.chain,
            "noise": self.noise,
            "further forward": self.further_forward,
            "compiled training": self.compiled_training,
        }

    def ceilings(self) -> Iterator[GpuRow]:
        """Yield what the device reaches in a matrix product and in a copy."""
        n = self.sizes.matrix
        factors = torch.randn(2, n, n, device=self.device).to(torch.bfloat16)
        yield self._row(f"matrix product, bfloat16, {n} x {n}", "PyTorch", lambda: factors[0] @ factors[1], 2 * n**3)
        source = torch.empty(self.sizes.copied_bytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        row = self._row(f"copy on the device, {self.sizes.copied_bytes / 1e9:.2g} GB", "PyTorch", lambda: target.copy_(source))
        rate = 2 * self.sizes.copied_bytes / row.timing.milliseconds / 1e9
        yield replace(row, remark=f"{rate:.2g} TB/s read and written")

    def forward(self) -> Iterator[GpuRow]:
        """Yield forward passes of one batch: ours in several ways, then the peers."""
        batch = self.sizes.batch
        yield self._our_forward("bfloat16", batch)
        yield self._our_forward("bfloat16", batch, "compiled")
        yield self._our_forward("bfloat16", batch, "as CUDA graph")
        yield self._our_forward("bfloat16", batch, "channels last")
        yield self._our_forward("tf32", batch)
        for precision in ("bfloat16", "tf32"):
            yield self._peer_forward("diffusers", precision, batch)
            yield self._peer_forward("MONAI", precision, batch)

    def further_forward(self) -> Iterator[GpuRow]:
        """Yield forward passes of other batches, and of a small one as a CUDA graph of compiled kernels."""
        for batch in self.sizes.further_batches:
            yield self._our_forward("bfloat16", batch)
        smallest = min(self.sizes.further_batches)
        yield self._our_forward("bfloat16", smallest, "compiled")
        yield self._peer_forward("MONAI", "bfloat16", smallest)

    def chain(self) -> Iterator[GpuRow]:
        """Yield the time of a member-step: chains of a sampling job, and MONAI's of one member after the other."""
        members, steps = self.sizes.batch, self.sizes.reverse_steps
        what, flops = f"member-step, bfloat16, {members} members in a batch", members * steps * self._flops()
        for how in ("", "compiled"):
            row = self._row(what, f"ours, {how}" if how else "ours", self._our_chain(how), flops)
            yield _per_unit(row, members * steps, steps)
        what = "member-step, bfloat16, member by member"
        yield _per_unit(self._peer_row(what, "MONAI", self._monai_chain, steps * self._flops()), steps, steps)

    def noise(self) -> Iterator[GpuRow]:
        """Yield the time to sample the noise of a step on the CPU, on demand and in threads ahead of the GPU."""
        shape, names = (1, *self.sizes.size), [("benchmark", member) for member in range(max(self.sizes.batch, 128))]
        steps = 4 * self.sizes.calls
        for members in (self.sizes.batch, len(names)):
            on_demand = MemberNoise(names[:members])
            what = f"noise of a step, {members} members"
            yield self._row(what, "ours, on demand", partial(on_demand.sample_normal, shape, self.device))
            if self.device.type == "cuda":
                ahead = MemberNoise(names[:members])
                ahead.prefetch_normal(shape, self.device, 2 * steps)
                threads = max(1, torch.get_num_threads() - 1)
                started = time.perf_counter()
                for _ in range(steps):
                    ahead.sample_normal(shape, self.device)
                milliseconds = 1e3 * (time.perf_counter() - started) / steps
                yield GpuRow(what, f"ours, {threads} threads ahead", Timing(milliseconds))

    def training(self) -> Iterator[GpuRow]:
        """Yield training steps, ours and MONAI's, and the parts of ours."""
        for precision in ("bfloat16", "tf32"):
            yield self._our_training(precision, compile=False)
            yield self._peer_training(precision)
        if unsupported_reason("bfloat16", self.device) is None:
            yield from self._training_parts("bfloat16")

    def compiled_training(self) -> Iterator[GpuRow]:
        """Yield a training step with a compiled network. It is last, since it takes minutes to compile."""
        yield self._our_training("bfloat16", compile=True)

    # Rows

    def _row(self, what: str, who: str, call: Call, flops: float | None = None) -> GpuRow:
        return GpuRow(what, who, time_call(call, self.device, self.sizes.calls), flops)

    def _peer_row(self, what: str, who: str, make_call: Callable[[], Call], flops: float) -> GpuRow:
        """Return the row of a peer, or one that names its missing package."""
        try:
            return self._row(what, who, make_call(), flops)
        except ImportError as error:
            return GpuRow(what, who, remark=f"not measured: {error}")

    def _build(self, build: Callable[[int], nn.Module]) -> nn.Module:
        """Return a network that is initialised on the device, where that takes no time."""
        with self.device:
            return build(self.sizes.channels)

    def _flops(self) -> float:
        return forward_flops(self.sizes.channels, self.sizes.size)

    def _inputs(self, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, IMAGE_CHANNELS + 1, *self.sizes.size, device=self.device, dtype=dtype)
        return x, torch.full((batch,), T // 2, device=self.device)

    def _our_forward(self, precision: str, batch: int, how: str = "") -> GpuRow:
        """Return the row of a forward pass of ours: launched kernel by kernel, compiled, as CUDA graph, or channels last."""
        what, who = f"forward, {precision}, {batch} images", f"ours, {how}" if how else "ours"
        if reason := unsupported_reason(precision, self.device):
            return GpuRow(what, who, remark=f"not measured: {reason}")
        if how == "as CUDA graph" and self.device.type != "cuda":
            return GpuRow(what, who, remark="not measured: only a GPU has graphs")
        chosen = PRECISIONS[precision]
        set_matmul_precision(chosen)
        network = prepare_for_inference(self._build(peers.our_network), self.device, chosen)
        x, t = self._inputs(batch, chosen.dtype)
        if how == "channels last":
            network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        started = time.perf_counter()
        with torch.inference_mode():
            if how == "compiled":
                network = CompiledNetwork(network, {self.sizes.size: batch})
                network(x, t)
                wait_for(self.device)
            call = partial(network, x, t)
            seconds = time.perf_counter() - started
            call = _as_graph(call, self.device) if how == "as CUDA graph" else call
            row = self._row(what, who, call, batch * self._flops())
        return replace(row, remark=f"compiled in {seconds:.0f} s") if how == "compiled" else row

    def _peer_forward(self, library: str, precision: str, batch: int) -> GpuRow:
        what = f"forward, {precision}, {batch} images"
        if reason := unsupported_reason(precision, self.device):
            return GpuRow(what, library, remark=f"not measured: {reason}")
        chosen = PRECISIONS[precision]
        set_matmul_precision(chosen)

        def make_call() -> Call:
            build = {"MONAI": peers.monai_network, "diffusers": peers.diffusers_network}[library]
            network = self._build(build).eval()
            is_autocast = library == "MONAI"  # it has layers that compute in float32
            dtype = torch.float32 if is_autocast else chosen.dtype
            network = network.to(dtype)
            x, t = self._inputs(batch, dtype)

            def call() -> Any:
                with torch.inference_mode(), self._autocast(chosen.dtype, is_autocast and chosen.is_half):
                    return network(x, t)

            return call

        return self._peer_row(what, library, make_call, batch * self._flops())

    def _autocast(self, dtype: torch.dtype, is_enabled: bool) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=dtype, enabled=is_enabled)

    def _our_chain(self, how: str) -> Call:
        """Return a function that samples chains of a batch of members, as a sampling job does."""
        chosen, sizes = PRECISIONS["bfloat16"], self.sizes
        denoiser = Denoiser(self._build(peers.our_network), Schedule.cosine(T), CODINGS["binary"], "noise")
        denoiser = prepare_for_inference(denoiser, self.device, chosen)
        if how == "compiled":
            denoiser.network = CompiledNetwork(denoiser.network, {sizes.size: sizes.batch})
        sampler = partial(ancestral, schedule=denoiser.schedule, variance="large")
        segmenter = DiffusionSegmenter(denoiser, NoiseStart(T), sampler, sizes.reverse_steps, sizes.batch)
        image = torch.zeros(sizes.batch, IMAGE_CHANNELS, *sizes.size, device=self.device)
        names = [("benchmark", member) for member in range(sizes.batch)]

        def chain() -> Tensor:
            with torch.inference_mode():
                return segmenter(image, None, MemberNoise(names))

        return chain

    def _monai_chain(self) -> Call:
        """Return a function that samples one member with MONAI's inferer under autocast."""
        from benchmarks.sampling import monai_sampling

        network = self._build(peers.monai_network)
        image = torch.zeros(1, IMAGE_CHANNELS, *self.sizes.size, device=self.device)
        sample = monai_sampling(network, image, 1, self.sizes.reverse_steps)

        def chain() -> Tensor:
            with self._autocast(torch.bfloat16, True):
                return sample()

        return chain

    def _our_trainer(self, precision: str, compile: bool) -> Trainer:
        from benchmarks.training import our_trainer

        chosen = PRECISIONS[precision]
        set_matmul_precision(chosen)
        trainer = our_trainer(self.device, chosen, self.sizes.channels, self.sizes.training_batch, self.sizes.size, compile)
        trainer.compile(trainer.settings.steps)
        return trainer

    def _our_training(self, precision: str, compile: bool) -> GpuRow:
        batch = self.sizes.training_batch
        what, who = f"training step, {precision}, batch {batch}", "ours, compiled" if compile else "ours"
        if reason := unsupported_reason(precision, self.device):
            return GpuRow(what, who, remark=f"not measured: {reason}")
        trainer = self._our_trainer(precision, compile)
        steps = iter(range(1, trainer.settings.steps))

        def train() -> None:
            for _ in range(self.sizes.training_steps):
                trainer.train_step(next(steps))

        # In a training, too, the device is waited for once in ten steps. The first call records the step as a graph.
        timing = time_call(train, self.device, self.sizes.calls, warm_up=1)
        row = GpuRow(what, who, timing, self.sizes.training_steps * 3 * batch * self._flops())
        return _per_unit(row, self.sizes.training_steps, self.sizes.training_steps)

    def _peer_training(self, precision: str) -> GpuRow:
        batch = self.sizes.training_batch
        what = f"training step, {precision}, batch {batch}"
        if reason := unsupported_reason(precision, self.device):
            return GpuRow(what, "MONAI", remark=f"not measured: {reason}")
        chosen = PRECISIONS[precision]
        set_matmul_precision(chosen)

        def make_call() -> Call:
            from benchmarks.training import monai_step

            step = monai_step(self.sizes.channels, batch, self.sizes.size, self.device)

            def call() -> float:
                with self._autocast(chosen.dtype, chosen.is_half):
                    return step()

            return call

        return self._peer_row(what, "MONAI", make_call, 3 * batch * self._flops())

    def _training_parts(self, precision: str) -> Iterator[GpuRow]:
        """Yield the time of each part of a step that runs kernel by kernel, with a wait for the device after each part."""
        trainer = self._our_trainer(precision, compile=False)
        (phase,) = trainer.phases
        optimiser = trainer.optimisers[phase.name]
        parts: dict[str, list[float]] = {}
        marks = [0.0]

        def mark(part: str) -> None:
            wait_for(self.device)
            now = time.perf_counter()
            parts.setdefault(part, []).append(1e3 * (now - marks[0]))
            marks[0] = now

        for step in range(1, 4 + self.sizes.calls):
            wait_for(self.device)
            marks[0] = time.perf_counter()
            inputs = trainer.batches.take(step)
            mark("batch")
            trainer.model.train()
            with trainer.backend.autocast():
                values = phase.loss_at(step, trainer.settings.steps)(trainer.model, inputs.batch, inputs.rng)
            mark("noise, forward and loss")
            optimiser.zero_grad(set_to_none=True)
            values["loss"].backward()
            mark("backward")
            nn.utils.clip_grad_norm_(phase.parameters, 1.0)
            optimiser.step()
            mark("clip and Adam")
            trainer._update_ema(step)
            mark("EMA")
        for part, milliseconds in parts.items():
            warm = sorted(milliseconds[3:])
            yield GpuRow(
                f"part of a training step, {precision}: {part}", "ours, kernel by kernel", Timing(warm[len(warm) // 2])
            )


def forward_flops(channels: int, size: Sequence[int]) -> int:
    """Return the FLOPs of a forward pass of one image, counted without computing. A training step takes three times as many.

    Args:
        channels: width of the network.
        size: (height, width) of the image in pixels.
    """
    with torch.device("meta"):
        network = peers.our_network(channels)
        x, t = torch.empty(1, IMAGE_CHANNELS + 1, *size), torch.zeros(1)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            network(x, t)
    return flops.get_total_flops()


def with_targets(rows: Sequence[GpuRow], batch: int, training_batch: int) -> list[GpuRow]:
    """Return the rows, those with a target with the condition and whether they meet it.

    Args:
        rows: the measurements.
        batch: images of the sampling rows with targets.
        training_batch: patches per training step.
    """
    measured = {(row.what, row.who): row for row in rows if row.timing}

    def best(what: str, who: str) -> float | None:
        times = [row.timing.milliseconds for (name, by), row in measured.items() if name.startswith(what) and by == who]
        return min(times, default=None)

    ceiling = next((row.teraflops for row in rows if row.what.startswith("matrix product")), None)

    def conditions(row: GpuRow) -> Iterator[tuple[str, bool]]:
        milliseconds = row.timing.milliseconds
        if (row.what, row.who) == (f"forward, bfloat16, {batch} images", "ours, compiled"):
            if ceiling:
                share = row.teraflops / ceiling
                yield f"≥ 40 % of the matrix product ({share:.0%})", share >= 0.4
            for peer, factor in (("diffusers", 1.8), ("MONAI", 2.0)):
                if theirs := best(row.what, peer):
                    yield f"≥ {factor:g} x {peer} ({theirs / milliseconds:.2f})", theirs / milliseconds >= factor
        if row.what == f"training step, bfloat16, batch {training_batch}":
            yield "≤ 45 ms", milliseconds <= 45
            if theirs := best("training step", "MONAI"):
                yield f"≥ 2 x MONAI's best ({theirs / milliseconds:.2f})", theirs / milliseconds >= 2
        limit = {"member-step": 0.95, "training step": 0.85}.get(row.what.split(",")[0])
        if limit and row.timing.busy_share is not None and "bfloat16" in row.what:
            yield f"busy ≥ {limit:.0%}", row.timing.busy_share >= limit

    def judged(row: GpuRow) -> GpuRow:
        found = list(conditions(row)) if row.timing and row.who.startswith("ours") else []
        return replace(row, target=("; ".join(text for text, _ in found), all(met for _, met in found))) if found else row

    return [judged(row) for row in rows]


def _per_unit(row: GpuRow, units: int, steps: int) -> GpuRow:
    """Return a row whose time and operations are those of one of the units of a call, and its kernels those of a step."""
    if row.timing is None:
        return row
    kernels = row.timing.kernels and round(row.timing.kernels / steps)
    timing = replace(row.timing, milliseconds=row.timing.milliseconds / units, kernels=kernels)
    return replace(row, timing=timing, flops=row.flops / units)


def _as_graph(call: Call, device: torch.device) -> Call:
    """Return a function that replays the kernels of a call as one CUDA graph."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
