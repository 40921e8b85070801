"""Deploy programs for Paddle Inference: what they hold, and running them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reparam.adapters.light_program import outputs_in, parameters_in
from reparam.adapters.paddle_models import Array, import_paddle, state_of
from reparam.errors import ExportError

__all__ = ["check_parameters", "open_predictor", "outputs_in", "run_predictor"]


def check_parameters(program: Path, parameters: Path, layer: Any) -> set[str]:
    """Return the names of all parameters; refuse any that is not the Layer's, bit for bit.

    Raises:
        ExportError: names the first that is different.
    """
    state = state_of(layer)
    names = set()
    for name, content in parameters_in(program, parameters):
        if name not in state or content != state[name].tobytes():
            raise ExportError(
                "the exported program is not the network",
                found=f"parameter '{name}' is not as in the network",
            )
        names.add(name)
    return names


def open_predictor(program: Path, parameters: Path) -> Any:
    """Return a predictor of Paddle Inference on one thread of the CPU.

    Without oneDNN: Paddle 3.3 fails with it on some networks, whatever their program is.

    Raises:
        ExportError: Paddle Inference refuses the program.
    """
    import_paddle()
    from paddle import inference

    config = inference.Config(str(program), str(parameters))
    config.disable_gpu()
    config.disable_glog_info()
    config.disable_mkldnn()
    config.set_cpu_math_library_num_threads(1)
    try:
        return inference.create_predictor(config)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(
            "Paddle Inference cannot load the program", found=_last_line(error)
        ) from error


def run_predictor(predictor: Any, x: Array) -> list[Array]:
    """Return the outputs of a program with one input, in its order.

    Raises:
        ExportError: the program does not take one image, or fails on it.
    """
    names = predictor.get_input_names()
    if len(names) != 1:
        raise ExportError("the program does not take one image", found=f"inputs {names}")
    handle = predictor.get_input_handle(names[0])
    try:
        handle.reshape(x.shape)
        handle.copy_from_cpu(x)
        predictor.run()
        names = predictor.get_output_names()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in names]
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(
            f"Paddle Inference cannot run the program on an input of shape {x.shape}",
            found=_last_line(error),
        ) from error


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
