"""Makes the golden maps of `tests/explain/test_gradcam.py` with pytorch-grad-cam.

Needs torch, torchvision and grad-cam, which the project does not; run it from the root:

    python tests/golden/make_gradcam_goldens.py
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
from seeded_checkpoints import seeded_checkpoint, seeded_images  # noqa: E402

SIZE = 96  # a 3x3 map
METHODS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "hirescam": HiResCAM}


def keeping_unscaled(method):
    """The library's method, which also keeps each map before it is scaled and enlarged."""

    class Keeping(method):
        def get_cam_image(self, *args, **kwargs):
            self.unscaled = super().get_cam_image(*args, **kwargs)
            return self.unscaled

    return Keeping


def main():
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_large().eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in seeded_checkpoint(shapes).items()}
    model.load_state_dict(state, strict=True)
    images = torch.from_numpy(seeded_images(SIZE)).permute(0, 3, 1, 2)
    targets = choose_targets(model, images)
    maps = {}
    for name, method in METHODS.items():
        with keeping_unscaled(method)(model, [model.features[-1]]) as cam:
            cam(images, [ClassifierOutputTarget(target) for target in targets])
            maps[name] = cam.unscaled.astype(np.float32)
            print(name, maps[name].tolist())
    np.savez_compressed(
        FOLDER / "gradcam_torchvision_large.npz",
        shapes=np.asarray(json.dumps(shapes, separators=(",", ":"))),
        targets=np.asarray(targets, np.int32),
        **maps,
    )


def choose_targets(model, images):
    """For each image a class whose map has both signs, so that the ReLU shows."""
    chosen = []
    for number in range(len(images)):
        for target in range(number, 1000):
            features = model.features(images[number : number + 1])
            logit = model.classifier(features.mean((2, 3)))[0, target]
            (gradient,) = torch.autograd.grad(logit, features)
            one = (features * gradient.mean((2, 3), keepdim=True)).sum(1)
            if one.max() > 0 > one.min():
                chosen.append(target)
                break
    return chosen


if __name__ == "__main__":
    main()
