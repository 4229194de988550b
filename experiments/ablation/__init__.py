"""The paper's ablations at small scale: `python -m experiments.ablation --study=stages` runs one."""
