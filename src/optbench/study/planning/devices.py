"""Devices that a study can be planned for without having them: their vendor's figures."""

from __future__ import annotations

from dataclasses import dataclass

# Share of the bfloat16 peak that a training step reaches; the published study counted with it.
DEFAULT_MFU = 0.4


@dataclass(frozen=True, slots=True)
class Device:
    """Peaks and memory of one device.

    Args:
        bf16_flops: per second, matrix units, dense (without structured sparsity), float32 sums.
        fp32_flops: per second, without TensorFloat-32.
        bytes_per_s: of its memory.
        memory_bytes: in decimal gigabytes, as the sheets give it; what is there is a little more.
    """

    name: str
    bf16_flops: float
    fp32_flops: float
    bytes_per_s: float
    memory_bytes: float


# NVIDIA's data sheets: H100 and H200 Tensor Core GPU (SXM), A100 80GB (SXM), HGX B200 (an eighth of
# the board), L40S, and the Ada architecture whitepaper for the RTX 4090. Where a sheet gives
# figures with sparsity, half of them.
DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("h100", 989e12, 67e12, 3.35e12, 80e9),
        Device("h200", 989e12, 67e12, 4.8e12, 141e9),
        Device("b200", 2250e12, 75e12, 7.7e12, 180e9),
        Device("a100", 312e12, 19.5e12, 2.04e12, 80e9),
        Device("l40s", 362e12, 91.6e12, 0.864e12, 48e9),
        Device("rtx4090", 165e12, 82.6e12, 1.008e12, 24e9),
    )
}


@dataclass(frozen=True, slots=True)
class DeviceAllocation:
    """Devices that a study would run on, and what they cost.

    Args:
        mfu: model FLOPs utilization, the share of the bfloat16 peak that training reaches.
        price: of one device for one hour, in any currency; None leaves money out.
        count: devices at work at once, one run on each.
    """

    device: Device
    mfu: float = DEFAULT_MFU
    price: float | None = None
    count: int = 1
