"""A mixer between its projections, by the specification: what dm2.torch.mixer_core computes."""

import torch

import demansia2_ref as reference


def exact_mixer(zxbcdt, forward, backward, *, headdim, d_state, groups=1, variant="published"):
    """Both directions' results [batch, length, 2 * inner], in zxbcdt's type. Arguments as dm2.torch.mixer_core's.

    A direction has conv, conv_bias, D, dt_bias, A_log and norm, as dm2.torch.Direction. An identity is its output
    projection.
    """
    inner = forward.A_log.shape[0] * headdim
    c = reference.Config(
        dim=inner,
        expand=1,
        headdim=headdim,
        d_state=d_state,
        groups=groups,
        d_conv=forward.conv.shape[-1],
        variant=variant,
    )
    p = {}
    for suffix, side in (("", forward), ("_b", backward)):
        p |= {
            f"m.conv1d{suffix}.weight": side.conv,
            f"m.conv1d{suffix}.bias": side.conv_bias,
            f"m.D{suffix}": side.D,
            f"m.dt_bias{suffix}": side.dt_bias,
            f"m.A_log{suffix}": side.A_log,
            f"m.norm{suffix}.weight": side.norm,
            f"m.out_proj{suffix}.weight": torch.eye(inner, dtype=zxbcdt.dtype, device=zxbcdt.device),
        }
    # the second direction reads "published" channels in reverse, "bidirectional" tokens; its result is put right again
    axis = 1 if variant == "bidirectional" else -1
    second = reference.mamba2_direction(zxbcdt.flip(axis), p, "m", "_b", c).flip(axis)
    return torch.cat([reference.mamba2_direction(zxbcdt, p, "m", "", c), second], -1)
