"""Writes steps of PyTorch optimisers with parameter groups, which tests/train/parameter_groups_test.cpp holds dm2's against.

    python3 parameter_groups.py OUT.safetensors [--seed 0]

The groups are timm's (timm.optim.param_groups_layer_decay with a Vision Transformer's group_matcher), written again here
from its documentation: stem and embeddings are layer 0, block i is layer i + 1, the last norm belongs to the last block, and
what is left, the heads, is the last layer; a layer's rate is layer_decay^(layers above it). AdamW is torch's own; Lion is
written after its paper (Chen et al. 2023, algorithm 2) with the decay first, as torch's AdamW has it. Everything in float64.
"""
from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch

import demansia2_ref as ref
from golden_file import save_safetensors

# The configuration `little` of tests/support/configurations.hpp.
LITTLE = ref.Config(image=(8, 8), patch=4, stem_width=3, depth=3, dim=6, classes=4, headdim=3, d_state=4, attn_layers=(1,),
                    attn_heads=1, attn_head_dim=4, attn_rotary=2)
STEPS = 3


class Lion(torch.optim.Optimizer):
    def __init__(self, groups, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(groups, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, (b1, b2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_((m * b1 + p.grad * (1 - b1)).sign_(), alpha=-lr)
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


def layer_of(name: str, depth: int) -> int:
    """timm's group_matcher for this network's names."""
    if re.match(r"cls_token|pos_embed|patch_embed", name):
        return 0
    if found := re.match(r"layers\.(\d+)\.", name):
        return int(found[1]) + 1
    return depth if name.startswith("norm_f") else depth + 1


def groups_of(parameters: dict, depth: int, lr: float, wd: float, layer_decay: float, head_scale: float, spared) -> list:
    """A group for each layer and decay, with timm's key "lr_scale" beside torch's."""
    groups: dict = {}
    for name, p in parameters.items():
        if not p.requires_grad:
            continue
        layer = layer_of(name, depth)
        scale = layer_decay ** (depth + 1 - layer) * (head_scale if layer == depth + 1 else 1.0)
        decay = 0.0 if spared(name, p) else wd
        group = groups.setdefault((layer, decay), dict(params=[], lr=lr * scale, lr_scale=scale, weight_decay=decay))
        group["params"].append(p)
    return list(groups.values())


def timm_rule(name, p):
    """weight_decay_exclude_1d, and a Vision Transformer's no_weight_decay()."""
    return p.ndim <= 1 or name in ("cls_token", "pos_embed")


def norms_and_biases(name, p):
    owner = name.split(".")[-2] if "." in name else ""
    return name.endswith(".bias") or re.match(r"norm|bn", owner) is not None or name == "norm_f.weight"


def scans(name, p):
    return name.split(".")[-1] in ("A_log", "A_log_b", "D", "D_b", "dt_bias", "dt_bias_b")


CASES = {
    "adamw_layer_decay": dict(rule="adamw", wd=0.05, layer_decay=0.75, spared=timm_rule),
    "lion_head_scale": dict(rule="lion", wd=0.5, head_scale=10.0, spared=norms_and_biases),
    "adamw_backbone": dict(rule="adamw", wd=0.1, frozen=4, spared=lambda name, p: p.ndim <= 1),
    "lion_frozen": dict(rule="lion", wd=0.3, layer_decay=0.6, head_scale=2.0, frozen=2, clip=0.5, spared=scans),
}


def group_case(out: dict, tag: str, c: ref.Config, seed: int, rule: str, wd: float, spared, layer_decay: float = 1.0,
               head_scale: float = 1.0, frozen: int = 0, clip: float = 0.0) -> None:
    g = torch.Generator().manual_seed(seed)
    p = {k: v.clone() for k, v in ref.random_parameters(c, seed).items() if v.is_floating_point() and "running" not in k}
    out.update({f"{tag}/init/{k}": v.float() for k, v in p.items()})
    for name, v in p.items():
        v.requires_grad_(layer_of(name, c.depth) >= frozen)  # as timm.utils.freeze
    groups = groups_of(p, c.depth, 1e-2, wd, layer_decay, head_scale, spared)
    make = torch.optim.AdamW if rule == "adamw" else Lion
    o = make(groups, lr=1e-2, betas=(0.9, 0.99), weight_decay=wd)
    for s in range(STEPS):
        lr = 1e-2 / (s + 1)
        for group in o.param_groups:
            group["lr"] = lr * group["lr_scale"]  # as timm's schedulers
        for name, v in p.items():
            gradient = torch.randn(v.shape, generator=g, dtype=torch.float64).float()
            # nothing reads D_b in the published form: torch leaves such a parameter alone
            v.grad = gradient.double() if v.requires_grad and not name.endswith(".D_b") else None
            out[f"{tag}/step{s}/grad/{name}"] = gradient
        if clip:
            norm = torch.nn.utils.clip_grad_norm_([v for v in p.values() if v.grad is not None], clip)
            out[f"{tag}/step{s}/norm"] = norm.reshape(1)
        o.step()
        for name, v in p.items():
            out[f"{tag}/step{s}/param/{name}"] = v.detach().clone()
    for name, v in p.items():
        if state := o.state.get(v):
            out[f"{tag}/first/{name}"] = state["exp_avg"]


def group_cases(path: Path, seed: int) -> None:
    out: dict = {}
    for i, (tag, case) in enumerate(CASES.items()):
        group_case(out, tag, LITTLE, 100 * seed + i, **case)
    save_safetensors(path, out, {"cases": json.dumps(list(CASES)), "steps": STEPS})


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("out", type=Path)
    ap.add_argument("--seed", type=int, default=0)
    arguments = ap.parse_args()
    group_cases(arguments.out, arguments.seed + 11)
