"""torch-tensorrt that makes ONNX of the program again and hands it to the double of TensorRT.

It suffices because the scores are real: what is lost or changed on the way into torch shows on the
probe. The real one, which compiles without a GPU but loads nothing, is in
tests/helpers/torch_trt_plans.py; a test holds the arguments against it.
"""

from torch_tensorrt import dynamo

__all__ = ["Input", "dynamo"]
__version__ = "2.14.0"


class Input:
    def __init__(
        self, *, min_shape: object, opt_shape: object, max_shape: object, dtype: object, name: str
    ) -> None:
        self.shapes = (min_shape, opt_shape, max_shape)
        self.dtype = dtype
        self.name = name
