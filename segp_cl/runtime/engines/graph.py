"""The image tower of a base model as an OpenVINO graph whose weights are inputs, so that versions fill in their own.

`openvino` is an extra of the package; this module is imported where it is wanted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import openvino
import torch
from torch import Tensor, nn

from segp_cl.models.backbone import Backbone
from segp_cl.runtime.engines.interface import EngineError

PIXELS: Final = "pixels"
_WHY: Final = 300  # characters of an error's text
_EXAMPLES: Final = 2  # a batch of one could be taken for a constant


def weights_of(model: Backbone) -> dict[str, Tensor]:
    """Return the image tower's parameters by name."""
    return {name: weight.detach() for name, weight in model.image_tower.named_parameters()}


def convert(base: Backbone) -> openvino.Model:
    """Convert the image tower: float32 pixels in [0, 1], any number of images, to raw features.

    The parameters of the tower are inputs too, named as in `weights_of`. The graph holds none of their values.

    Raises:
        EngineError: the tower has operations that cannot be converted.
    """
    # the reader of PyTorch's graphs alone: `openvino.convert_model` reports its use to the maker
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    size = base.preprocessing.size
    weights = weights_of(base)
    traced_copy = base.shared_copy()

    def raw_features(pixels: Tensor, *values: Tensor) -> Tensor:
        _set_weights(traced_copy.image_tower, dict(zip(weights, values, strict=True)))
        return traced_copy.raw_features(pixels)

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about shapes that become constants, which `check` would find
            example = torch.rand(_EXAMPLES, 3, size, size)
            inputs = (example, *weights.values())
            traced = torch.jit.trace(raw_features, inputs, check_trace=False)  # type: ignore[no-untyped-call]
            frontend = FrontEndManager().load_by_framework("pytorch")
            decoder = TorchScriptPythonDecoder(traced)  # held here: the reader does not keep it alive
            graph = frontend.convert(frontend.load(decoder))
        names = (PIXELS, *weights)
        if len(graph.get_parameters()) != len(names):
            raise EngineError(f"the graph has {len(graph.get_parameters())} inputs, expected {len(names)}")
        for parameter, name in zip(graph.get_parameters(), names, strict=True):
            parameter.set_friendly_name(name)
            parameter.output(0).get_tensor().set_names({name})
            shape = [-1, 3, size, size] if name == PIXELS else list(weights[name].shape)
            parameter.set_partial_shape(openvino.PartialShape(shape))
        graph.validate_nodes_and_infer_types()
    except EngineError:
        raise
    except Exception as error:  # the tracer and the reader raise many kinds
        why = " ".join(str(error).split()) or type(error).__name__
        raise EngineError(f"the image tower cannot be converted: {why[:_WHY]}") from error
    return graph


def fill_in(graph: openvino.Model, weights: Mapping[str, Tensor]) -> openvino.Model:
    """Return a copy of the graph with these weights, whose memory it shares.

    Raises:
        EngineError: the graph has other inputs than these weights.
    """
    filled = graph.clone()
    inputs = {parameter.get_friendly_name(): parameter for parameter in filled.get_parameters()}
    if inputs.keys() != {PIXELS, *weights}:
        differ = sorted(inputs.keys() ^ {PIXELS, *weights})[0]
        raise EngineError(f"the graph has other weights than the image tower: {differ} is in one of them only")
    for name, weight in weights.items():
        constant = openvino.op.Constant(weight.contiguous().numpy(), shared_memory=True)
        for target in inputs[name].output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
        filled.remove_parameter(inputs[name])
    filled.validate_nodes_and_infer_types()
    return filled


def _set_weights(tower: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put plain tensors in the place of parameters: `functional_call` refuses to do so while a model is traced."""
    for (module, name), value in zip(_places(tower, values), values.values(), strict=True):
        module._parameters.pop(name, None)
        module.__dict__[name] = value


def _places(tower: nn.Module, names: Mapping[str, Any]) -> Iterator[tuple[nn.Module, str]]:
    for path in names:
        parent, _, name = path.rpartition(".")
        yield tower.get_submodule(parent), name
