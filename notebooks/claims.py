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
from degradation.report import draw as figures
from degradation.report import statistics as claims
from degradation.report import studies as study_figures
from degradation.report import table as analysis

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
    if len(claims.select(table, {"study": "gradients"})):
        figures.save(study_figures.draw_signals(table), folder, "gradients")
    if study_figures.signals_in_training(table):
        backward = study_figures.draw_signals_in_training(table, "grad_weight", "gradient norm of weights")
        forward = study_figures.draw_signals_in_training(table, "std", "std of responses")
        figures.save(backward, folder, "gradients_in_training")
        figures.save(forward, folder, "signals_in_training")

# %% [markdown]
# ## Early convergence, and what the responses are made of

# %%
for protocol, table in tables.items():
    folder = results / "figures" / protocol
    depths = [depth for depth in (20, 56) if study_figures.has_finished(table, depth)]
    if depths:
        figures.save(study_figures.draw_convergence(table, depths), folder, "convergence")
        figures.save(study_figures.draw_response_parts(table, depths), folder, "response_parts")

# %% [markdown]
# ## One setting at a time: shortcut options, shortcut strength, length of training, warm-up
#
# Filled points and dashed lines: training error; open points and solid lines: test error.

# %%
residual20, residual56 = {"network": "residual", "depth": 20}, {"network": "residual", "depth": 56}
plain20, plain56 = {"network": "plain", "depth": 20}, {"network": "plain", "depth": 56}
options = {"A": "A (zeros)", "B": "B (some projections)", "C": "C (all)"}
norms, warmups = {"batch": "with BN", "none": "without"}, {110: "with warm-up", 111: "without"}
for protocol, table in tables.items():
    folder = results / "figures" / protocol
    for name, where, setting, label, title, references, names in (
        ("shortcut_options", residual20, "network.shortcut", "", "residual-20", {"plain-20": plain20}, options),
        ("without_bn", {"depth": 20}, "network.norm", "", "20 layers", {}, norms),
        (
            "shortcut_strength",
            residual56,
            "network.alpha",
            "alpha",
            "alpha x + F(x), 56 layers",
            {"plain-56": plain56},
            {},
        ),
    ):
        if claims.select(table, where, (setting,))[setting].nunique() > 1:
            figure = study_figures.draw_by_setting(table, where, setting, label, title, references, names)
            figures.save(figure, folder, name)
    if claims.select(table, {"depth": 110}, ("protocol.warmup.min_depth",))["protocol.warmup.min_depth"].nunique() > 1:
        figure = study_figures.draw_curves_by_setting(table, 110, "protocol.warmup.min_depth", warmups)
        figures.save(figure, folder, "warmup")
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
    lesioned = table[[study_figures.has_probe(folder, "lesions") for folder in table["folder"]]]
    depths = [depth for depth in (20, 56) if len(claims.select(lesioned, {"depth": depth}))]
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
