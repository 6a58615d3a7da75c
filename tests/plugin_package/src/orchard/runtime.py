"""A runtime for traced modules: our own `.crate` and everybody's `.torchscript`."""

import detloom


class Traced:
    batch_limit = None
    manifest = None

    def __init__(self, path):
        import torch

        self.module = torch.jit.load(str(path))

    def __call__(self, images):
        import torch

        with torch.inference_mode():
            boxes, scores = self.module(torch.from_numpy(images))
        return boxes.numpy(), scores.numpy()


@detloom.hookimpl
def detloom_runtimes():
    yield detloom.RuntimeSpec(
        name="torchscript",
        summary="traced modules (.crate, .torchscript)",
        suffixes=(".crate", ".torchscript"),
        build=lambda settings, request: Traced(request.path),
    )
