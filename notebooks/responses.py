# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Layer responses (Fig. 7)
#
# The standard deviation of every 3x3 layer's output, after BN and before ReLU or addition, in eval mode on the test
# set, from the records in `results/runs/` (the published ones where there are none); then what BN's gamma and beta make
# of it.

# %%
from degradation.report.figures import show

# %%
show("fig7", "response_parts")
