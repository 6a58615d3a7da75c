"""The network of `dots`."""

import torch
from torch import nn

import detloom

CELL_PX = 16


class Dots(detloom.Detector):
    def __init__(self, settings, context):
        rule = detloom.InputRule(size=context.size, scale=1 / 255)
        super().__init__(context.class_names, rule, detloom.PostRule(kind="nms"))
        self.stem = nn.Sequential(nn.Conv2d(3, settings.channels, 3, 4, 1), nn.ReLU())
        self.head = nn.Conv2d(settings.channels, 4 + len(context.class_names), 4, 4)
        self.losses, self.weights = context.losses, context.loss_weights

    def forward(self, images, targets=None, prompts=None):
        cells = self.head(self.stem(self.normalise(images))).flatten(2).transpose(1, 2)
        return detloom.Outputs(logits=cells[..., 4:], boxes=cells[..., :4])

    def decode(self, outputs):
        height, width = (side // CELL_PX for side in self.input_rule.size)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5 + outputs.boxes[..., :2].tanh()) * CELL_PX
        half = CELL_PX * outputs.boxes[..., 2:].clamp(max=4).exp()
        return detloom.Decoded(torch.cat([centre - half, centre + half], -1), outputs.logits.sigmoid())

    def loss(self, outputs, targets):
        boxes = self.decode(outputs).boxes
        cell = ((targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2 / CELL_PX).long()
        image, row = targets.valid.nonzero(as_tuple=True)
        where = (cell[..., 1] * (self.input_rule.size[1] // CELL_PX) + cell[..., 0])[image, row]
        where = where.clamp(max=boxes.shape[1] - 1)
        wanted = torch.zeros_like(outputs.logits)
        wanted[image, where, targets.labels[image, row]] = 1
        score = self.losses["classification"](outputs.logits.flatten(0, 1), wanted.flatten(0, 1)).sum()
        box = self.losses["box"](boxes[image, where], targets.boxes[image, row]).sum()
        terms = {"classification": score * self.weights["classification"], "box": box * self.weights["box"]}
        return detloom.LossTerms(terms, targets.valid.sum().clamp(min=1).float())

    def layer_groups(self):
        return [
            detloom.LayerGroup("stem", (self.stem,), depth=0, is_backbone=True),
            detloom.LayerGroup("head", (self.head,), depth=1, is_head=True),
        ]

    def load_pretrained(self, state, class_names, source):
        return detloom.TransferReport(source, loaded=0, total=len(state), reset=self.class_names)
