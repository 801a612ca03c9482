"""From a model file to a serialized engine, through what TensorRT 8.2 to 11 share, and by name where they differ."""

import os
from typing import Any, Dict, List, Optional

from edgec.backends.tensorrt.board.files import CANNOT, Failure, say
from edgec.backends.tensorrt.board.machine import numbers
from edgec.backends.tensorrt.board.messages import Clock, Log


class Settings:
    """What a build is told. variant: a row of engine.json; workspace: bytes; dla: core or None; cache: the timing cache
    of this board as bytes; level: 0 to 5, or None for TensorRT's own; library_kernels: cuDNN and cuBLAS may be used;
    standalone: a DLA loadable instead of an engine.
    """

    def __init__(self, folder: str, variant: Dict[str, Any], workspace: int, sparse: bool = False,
                 dla: Optional[int] = None, gpu_fallback: bool = False, standalone: bool = False, cache: bytes = b"",
                 level: Optional[int] = None, library_kernels: bool = True) -> None:
        self.folder, self.variant, self.workspace, self.sparse = folder, variant, workspace, sparse
        self.dla, self.gpu_fallback, self.standalone, self.cache = dla, gpu_fallback, standalone, cache
        self.level, self.library_kernels = level, library_kernels


class Built:
    """What a build gave: the plan's bytes, the timing cache to keep, and the seconds that it took."""

    def __init__(self, plan: Any, cache: bytes, seconds: float) -> None:
        self.plan, self.cache, self.seconds = plan, cache, seconds


def build_plan(trt: Any, settings: Settings, log: Log, clock: Clock) -> Built:
    """Build one engine. Raises Failure with TensorRT's own words if it cannot parse or build."""
    logger = log.logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt, settings.variant["typed"]))
    parser = trt.OnnxParser(network, logger)
    path = os.path.join(settings.folder, settings.variant["model"])
    if not parser.parse_from_file(path):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise Failure("TensorRT {} cannot parse {}:\n    {}".format(
            trt.__version__, settings.variant["model"], "\n    ".join(errors or log.errors or ["no reason given"])),
            "report this: edgec checks operators before it writes a model")
    config = builder.create_builder_config()
    configure(trt, config, builder, network, settings)
    monitor = clock.monitor(trt)
    if monitor is not None:
        config.progress_monitor = monitor
    timing = set_timing_cache(config, settings.cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Failure("TensorRT could not build the engine:\n    " + "\n    ".join(log.errors[-5:] or log.lines[-5:]),
                      _advice(log.errors + log.lines))
    kept = bytes(config.get_timing_cache().serialize()) if timing else b""
    return Built(plan, kept, clock.seconds)


def network_flags(trt: Any, typed: bool) -> int:
    """Flags of create_network. Typed: STRONGLY_TYPED in 10, nothing in 11, which has no other way. By flags:
    EXPLICIT_BATCH in 8, nothing in 10.
    """
    flag, major = trt.NetworkDefinitionCreationFlag, numbers(trt.__version__)[0]
    if typed and major < 11:
        if not hasattr(flag, "STRONGLY_TYPED"):
            raise Failure(f"TensorRT {trt.__version__} has no strongly typed networks, which this bundle needs",
                          "build the bundle for this JetPack: edgec build --jetpack ...", CANNOT)
        return 1 << int(flag.STRONGLY_TYPED)
    if not typed and major < 10:
        return 1 << int(flag.EXPLICIT_BATCH)
    return 0


def configure(trt: Any, config: Any, builder: Any, network: Any, settings: Settings) -> None:
    """Everything that a builder configuration is told, by name: enum numbers differ between versions."""
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    else:
        config.max_workspace_size = settings.workspace  # 8.2
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = settings.level
    for name in settings.variant["flags"]:
        set_flag(trt, config, name)
    if settings.sparse:
        set_flag(trt, config, "SPARSE_WEIGHTS")
    if not settings.library_kernels:
        source = trt.TacticSource
        names = [n for n in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS") if hasattr(source, n)]
        config.set_tactic_sources(sum(1 << int(getattr(source, n)) for n in names))
    if settings.variant["cache"]:
        with open(os.path.join(settings.folder, settings.variant["cache"]), "rb") as file:
            config.int8_calibrator = calibrator(trt, file.read())
    if settings.dla is not None:
        _use_dla(trt, config, builder, network, settings)


def set_flag(trt: Any, config: Any, name: str) -> None:
    """Set a builder flag. Raises Failure if this version lacks it: without it the engine would be a slower one."""
    if not hasattr(trt.BuilderFlag, name):
        raise Failure(f"TensorRT {trt.__version__} has no builder flag {name}, which this bundle needs",
                      "build the bundle for this JetPack: edgec build --jetpack ...", CANNOT)
    config.set_flag(getattr(trt.BuilderFlag, name))


def _use_dla(trt: Any, config: Any, builder: Any, network: Any, settings: Settings) -> None:
    cores = builder.num_DLA_cores
    if settings.dla is None or settings.dla >= cores:
        raise Failure(f"this machine has {cores} DLA cores", "build without --dla", CANNOT)
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = settings.dla
    if settings.gpu_fallback and not settings.standalone:
        set_flag(trt, config, "GPU_FALLBACK")
    if not settings.standalone:
        return
    config.engine_capability = trt.EngineCapability.DLA_STANDALONE
    set_flag(trt, config, "DIRECT_IO")
    int8 = "INT8" in settings.variant["flags"]
    wide = trt.TensorFormat.CHW32 if int8 else trt.TensorFormat.CHW16
    for tensor in [network.get_input(i) for i in range(network.num_inputs)] + [
            network.get_output(i) for i in range(network.num_outputs)]:
        tensor.dtype = trt.DataType.INT8 if int8 else trt.DataType.HALF
        tensor.allowed_formats = 1 << int(wide)


def calibrator(trt: Any, cache: bytes) -> Any:
    """A calibrator that has a cache and no data. Its first line is made this version's: the scales do not depend on it.

    If TensorRT asks for data, it did not accept the cache, and the build fails instead of making up scales.
    """
    version = (*numbers(trt.__version__), 0, 0)
    base = 10000 if version[0] >= 10 else 1000
    title = f"TRT-{version[0] * base + version[1] * 100 + version[2]}-EntropyCalibration2\n"
    content = title.encode("ascii") + cache.partition(b"\n")[2]

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: List[str]) -> Any:
            raise Failure("TensorRT did not accept the calibration cache of this bundle")

        def read_calibration_cache(self) -> bytes:
            return content

        def write_calibration_cache(self, cache: Any) -> None:
            pass  # nothing was calibrated

    return Calibrator()


def set_timing_cache(config: Any, cache: bytes) -> bool:
    """Give the configuration this board's timing cache (empty is fine). A cache of another board or version is refused
    by TensorRT, and then an empty one is used. False where timing caches cannot be used.
    """
    for content in ([cache] if cache else []) + [b""]:
        try:
            timing = config.create_timing_cache(content)
        except (TypeError, ValueError):
            timing = None
        if timing is not None and config.set_timing_cache(timing, ignore_mismatch=False):
            return True
        if content:
            say("build", "the timing cache does not fit this machine; starting a new one")
    return False


def _advice(lines: List[str]) -> str:
    text = " ".join(lines)
    if "emory" in text:
        return "free memory (see --check), or give less scratch memory: --workspace 256"
    if "DLA" in text:
        return "build the bundle again with --allow-gpu-fallback"
    if "could not find any implementation" in text.lower():
        return "an int8 layer has no kernel on this GPU: build with --precision float16"
    return "run again with --verbose and send the output"
