"""A backbone as an MLflow model: images [n, C, H, W], mostly RGB, in [0, 1] -> features [n, d].

MLflow keeps this file with the model. It needs torch, torchvision (or timm, for other networks than ResNets) and
safetensors, and not the program that wrote it.
"""

import json
from pathlib import Path

import mlflow
import numpy as np
import torch
from safetensors.torch import load_file


class Embedder(mlflow.pyfunc.PythonModel):
    """Embeds images of any size; those like the training views (`about.json`) suit it best."""

    def load_context(self, context):
        about = json.loads(Path(context.artifacts["about"]).read_text())
        self.mean, self.std = (torch.tensor(about[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        channels = len(about["mean"])
        if about["backbone"] in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
            import torchvision

            self.model = getattr(torchvision.models, about["backbone"])()
            if channels != 3:
                self.model.conv1 = torch.nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
            self.model.fc = torch.nn.Identity()
        else:
            import timm

            options = {"num_classes": 0, "in_chans": channels}
            if timm.get_pretrained_cfg(about["backbone"]).fixed_input_size:
                options["img_size"] = about["image_size"]
            self.model = timm.create_model(about["backbone"], **options)
            if about["pooling"] != "own":
                self.model.reset_classifier(0, {"average": "avg", "class-token": "token"}[about["pooling"]])
        self.model.load_state_dict(load_file(context.artifacts["backbone"]))
        self.model.eval()

    def predict(self, context, model_input, params=None):
        images = torch.as_tensor(np.asarray(model_input), dtype=torch.float32)
        with torch.no_grad():
            return self.model((images - self.mean) / self.std).numpy()


mlflow.models.set_model(Embedder())
