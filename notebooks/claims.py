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
# # The claims, study by study
#
# Every claim of the paper on CIFAR-10 as a study (`conf/experiment/`), from the records in `results/runs/`: its figure,
# and the verdict that its statistic over seeds allows. `make claims` trains what is missing; `make figures` draws.

# %%
from degradation import analysis, claims, figures, study_figures

results = analysis.find_results()
tables = claims.load_tables(results)
list(tables)

# %% [markdown]
# ## The constructed solution: a trained shallow network, deepened by identity layers

# %%
for protocol, table in tables.items():
    if len(claims.select(table, {"network.parent_depth": 20, "depth": 56})):
        figure = study_figures.draw_constructed(table, 20, 56)
        figures.save(figure, results / "figures" / protocol, "constructed")

# %% [markdown]
# ## Signals forward and backward, at initialisation and in training

# %%
for protocol, table in tables.items():
    folder = results / "figures" / protocol
    if (table["study"] == "gradients").any():
        figures.save(study_figures.draw_signals(table), folder, "gradients")
    if study_figures.signals_in_training(table):
        figures.save(study_figures.draw_signals_in_training(table), folder, "gradients_in_training")

# %% [markdown]
# ## Early convergence, and what the responses are made of

# %%
for protocol, table in tables.items():
    folder = results / "figures" / protocol
    depths = [
        d
        for d in (20, 56)
        if len(claims.contrast(table, {"network": "plain", "depth": d}, {"network": "residual", "depth": d}).dropna())
    ]
    if depths:
        figures.save(study_figures.draw_convergence(table, depths), folder, "convergence")
    if 56 in depths:
        figures.save(study_figures.draw_response_parts(table, 56), folder, "response_parts")

# %% [markdown]
# ## One setting at a time: shortcut options, shortcut strength, length of training, warm-up
#
# Filled points and dashed lines: training error; open points and solid lines: test error.

# %%
residual20, options = (
    {"network": "residual", "depth": 20},
    {"A": "A (zeros)", "B": "B (some projections)", "C": "C (all)"},
)
warmups = {110: "with warm-up", 111: "without"}
plain56, residual56 = {"network": "plain", "depth": 56}, {"network": "residual", "depth": 56}
for protocol, table in tables.items():
    folder = results / "figures" / protocol
    for name, where, setting, label, title, references, names in (
        ("shortcut_options", residual20, "network.shortcut", "shortcut option", "residual-20", {}, options),
        (
            "shortcut_strength",
            residual56,
            "network.alpha",
            "alpha",
            "alpha x + F(x), 56 layers",
            {"plain-56": plain56},
            {},
        ),
        ("warmup", {"depth": 110}, "protocol.warmup.min_depth", "", "110 layers", {}, warmups),
    ):
        if claims.select(table, where, (setting,))[setting].nunique() > 1:
            figure = study_figures.draw_by_setting(table, where, setting, label, title, references, names)
            figures.save(figure, folder, name)
    if len(claims.select(table, {"network": "plain", "length": 3})):
        figures.save(study_figures.draw_longer(table, 3), folder, "longer_training")

# %% [markdown]
# ## Is it only the learning rate?

# %%
for protocol, table in tables.items():
    if claims.select(table, {}, ("protocol.lr",))["protocol.lr"].nunique() > 1:
        figures.save(study_figures.draw_learning_rates(table), results / "figures" / protocol, "learning_rate")

# %% [markdown]
# ## Lesions: blocks of trained networks deleted or swapped

# %%
for protocol, table in tables.items():
    depths = [depth for depth in (20, 56) if study_figures.has_lesions(table, depth)]
    if depths:
        figures.save(study_figures.draw_lesion_study(table, depths), results / "figures" / protocol, "lesions")

# %% [markdown]
# ## Verdicts

# %%
stated = claims.load_claims()
for protocol, table in tables.items():
    verdicts = claims.judge(stated, table)
    if any(verdict.effects for verdict in verdicts):
        figures.save(study_figures.draw_verdicts(verdicts, protocol), results / "figures" / protocol, "verdicts")
