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
# # The degradation problem, and its reversal
#
# Figures 1 and 6 and Table 6 of He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), from the
# records in `results/runs/` (the published ones where there are none), for every protocol that has some. Open it as a
# notebook (`jupytext --to ipynb`): figures and tables show below the cells, and no file is written; `make figures`
# writes the same ones into `results/figures/`.

# %%
from degradation.report.figures import show

# %% [markdown]
# ## A deeper plain network has higher training error; its residual twin does not

# %%
show("fig1", "fig6", "error_by_depth", "matched_pairs")

# %% [markdown]
# ## It is not overfitting: losses along training, and test minus training error

# %%
show("loss", "gap")

# %% [markdown]
# ## Table 6: test error beside the paper's, and matched pairs

# %%
show("table6", "paired_differences")
