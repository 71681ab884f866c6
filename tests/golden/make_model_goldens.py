"""Makes the golden values of `tests/model` from the libraries that published the weights.

Needs torch, torchvision, timm and keras, which the project does not; run it from the root:

    KERAS_BACKEND=jax python tests/golden/make_model_goldens.py [MINIMALISTIC.safetensors]

The one argument is the real weight file that `OCT_WEIGHTS` names in tests.
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import h5py
import keras
import numpy as np
import timm
import torch
import torchvision
from keras.src.legacy.saving import legacy_h5_format
from safetensors.torch import load_file

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
from seeded_checkpoints import seeded_checkpoint, seeded_images  # noqa: E402

SIZE = 75  # odd, then even: 75, 38, 19, 10, 5, 3, so that every padding rule shows


def save(name, shapes, features, logits):
    """Features are stored as their two marginal means, logits whole."""
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        shapes=np.asarray(json.dumps(shapes, separators=(",", ":"))),
        positions=features.mean(-1),
        channels=features.mean((0, 1, 2)),
        logits=logits,
    )
    print(
        name, "features", np.abs(features).mean(), "logits", logits.std(), np.ptp(logits, 0).mean()
    )


@torch.no_grad()
def run_torch(features, model, images):
    model.eval()
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return features(x).permute(0, 2, 3, 1).numpy(), model(x).numpy()


def torch_golden(name, model, features):
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    arrays = seeded_checkpoint(shapes)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    save(name, shapes, *run_torch(features, model, seeded_images(SIZE)))


def keras_golden(name, *, minimalistic):
    model = keras.applications.MobileNetV3Large(
        input_shape=(SIZE, SIZE, 3),
        minimalistic=minimalistic,
        weights=None,
        classifier_activation=None,
        include_preprocessing=False,
    )
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
        if "seed_generator" not in variable.path
    }
    shapes = {key: tuple(variable.shape) for key, variable in variables.items()}
    for key, value in seeded_checkpoint(shapes).items():
        variables[key].assign(value)
    pool = next(x for x in model.layers if isinstance(x, keras.layers.GlobalAveragePooling2D)
                and "squeeze_excite" not in x.name)  # fmt: skip
    both = keras.Model(model.input, [pool.input, model.output])
    save(name, shapes, *(np.asarray(y) for y in both(seeded_images(SIZE), training=False)))


def real_golden(path):
    model = timm.create_model("tf_mobilenetv3_large_minimal_100")
    model.load_state_dict(load_file(path), strict=True)
    _, logits = run_torch(model.forward_features, model, seeded_images(224))
    np.savez_compressed(FOLDER / "timm_minimalistic_real.npz", logits=logits)


def torch_files():
    """Every way in which torch lays a tensor over its storage, in both of its containers."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = OrderedDict(
        whole=base,
        transposed=base.T,
        part=base[1:3, 2:5],
        parameter=torch.nn.Parameter(torch.tensor([0.5, -0.5])),
        half=torch.tensor([1.5], dtype=torch.float16),
        double=torch.tensor([2.5], dtype=torch.float64),
        count=torch.tensor(7),
        empty=torch.zeros(0, 3),
    )
    torch.save(state, FOLDER / "tensors.pth")
    torch.save(state, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)


def keras_file():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="conv_bn"),
            keras.layers.DepthwiseConv2D(3, use_bias=False, name="expanded_conv_depthwise"),
        ]
    )
    for layer in model.layers:
        for variable in layer.variables:
            key = f"{layer.name}/{variable.name}"
            variable.assign(seeded_checkpoint({key: tuple(variable.shape)})[key])
    with h5py.File(FOLDER / "keras_layers.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def main():
    torch.manual_seed(0)
    torchvision_large = torchvision.models.mobilenet_v3_large()
    torch_golden("torchvision_large", torchvision_large, torchvision_large.features)
    for name, architecture in (
        ("timm_large", "mobilenetv3_large_100"),
        ("timm_minimalistic", "tf_mobilenetv3_large_minimal_100"),
    ):
        model = timm.create_model(architecture)
        # Without conv_head, which timm counts among the features.
        torch_golden(name, model, lambda x, m=model: m.blocks(m.bn1(m.conv_stem(x))))
    keras_golden("keras_large", minimalistic=False)
    keras_golden("keras_minimalistic", minimalistic=True)
    torch_files()
    keras_file()
    if len(sys.argv) > 1:
        real_golden(sys.argv[1])


if __name__ == "__main__":
    main()
