"""An exporter: a traced module in a `.crate` file, without metadata (the manifest lies beside it)."""

import detloom


class Crate:
    def export(self, detector, request):
        import torch

        path = request.path.with_name(f"{request.path.name}.crate")
        images = torch.zeros(2, 3, *request.size, dtype=torch.uint8)
        with torch.no_grad(), detloom.atomic_path(path) as part:
            # Not traced twice to compare: the gate runs the file, and a network may fill a cache in its first pass.
            traced = torch.jit.trace(detloom.deploy_graph(detector), images, check_trace=False)
            torch.jit.save(traced, str(part))
        return path


@detloom.hookimpl
def detloom_exporters():
    yield detloom.ExporterSpec(
        name="crate",
        summary="a traced module",
        suffix=".crate",
        runtime="orchard:torchscript",
        build=lambda settings: Crate(),
    )
