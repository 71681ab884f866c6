"""torchvision's MobileNetV3-Large in a process of its own.

    python torch_peer.py fp32|bf16 eager|compile
    python torch_peer.py export FILE

Runs in an environment that has torch and torchvision, and nothing of oct_jax. Answers a line
`TASK CALLS` on standard input with the wall and the CPU seconds of one call; `export` writes the
network as an ONNX file for batches of any size.
"""

import sys
import time

import torch
import torchvision

TASKS = {"forward 1": 1, "forward 32": 32, "step 32": 32}


def make_tasks(precision: str, mode: str) -> dict:
    """Functions without arguments, by task; compiled ones compile at their first call."""
    torch.manual_seed(0)
    torch._inductor.config.freezing = True  # of inference alone: weights become constants
    trained, evaluated = (
        torchvision.models.mobilenet_v3_large(num_classes=4).to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    evaluated.eval()
    optimizer = torch.optim.AdamW(trained.parameters(), 1e-4)
    labels = torch.arange(32) % 4

    def loss_of(images):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return torch.nn.functional.cross_entropy(trained(images), labels)

    def logits_of(images):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return evaluated(images)

    if mode == "compile":
        # One program for each shape, as a user of fixed batches would have it.
        loss_of, logits_of = (torch.compile(f, dynamic=False) for f in (loss_of, logits_of))

    def forward(images):
        with torch.inference_mode():
            logits_of(images)

    def step(images):
        optimizer.zero_grad()
        loss_of(images).backward()
        optimizer.step()

    inputs = {
        task: torch.rand(count, 3, 224, 224).to(memory_format=torch.channels_last)
        for task, count in TASKS.items()
    }
    return {
        task: lambda task=task: (step if task.startswith("step") else forward)(inputs[task])
        for task in TASKS
    }


def export(path: str) -> None:
    """Writes the network of 1000 classes, as `torch.onnx.export` makes it."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_large().eval()
    shapes = {"x": {0: torch.export.Dim("batch")}}
    image = torch.rand(2, 3, 224, 224)
    torch.onnx.export(
        model,
        (image,),
        path,
        dynamo=True,
        external_data=False,
        dynamic_shapes=shapes,
        verbose=False,
    )


def answer(tasks: dict) -> None:
    """Times what standard input asks for."""
    print(torch.__version__, torchvision.__version__, torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        task, calls = line.rsplit(maxsplit=1)
        begun, spent = time.perf_counter(), time.process_time()
        for _ in range(int(calls)):
            tasks[task]()
        wall, cpu = time.perf_counter() - begun, time.process_time() - spent
        print(wall / int(calls), cpu / int(calls), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(sys.argv[2])
    else:
        answer(make_tasks(*sys.argv[1:3]))
