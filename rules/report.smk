# Tables and figures. Inputs are score CSVs; Figure 2 also needs masks and scans. Only the rules `leak` and `memory` may import PyTorch.


rule table1:
    input:
        scores=scores_of(config["exhibits"]["table1"], "table1"),
        histories=histories_of(config["exhibits"]["table1"]),
        printed=PRINTED_VALUES,
    output:
        table=f"{EXHIBITS_FOLDER}/table1.csv",
        page=f"{EXHIBITS_FOLDER}/table1.html",
        markdown=f"{EXHIBITS_FOLDER}/table1.md",
        latex=f"{EXHIBITS_FOLDER}/table1.tex",
        groups=f"{EXHIBITS_FOLDER}/table1_groups.csv",
        record=f"{EXHIBITS_FOLDER}/table1.json",
    log:
        "results/logs/table1/{dataset}.log",
    benchmark:
        "results/benchmarks/table1/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=exhibits.labels(config, config["exhibits"]["table1"]),
        users=exhibits.network_users(config, config["exhibits"]["table1"]),
        compared_with=resolve.canonical(config, config["exhibits"]["compared_with"]),
        caption_note=caption_note,
        code=script_code("table1"),
    script:
        "../workflow/scripts/table1.py"


# Two papers have a Table 2.
if config["exhibits"]["no_diffusion"] is None:

    rule table2:
        input:
            scores=scores_of(exhibits.table2_methods(config), "table2"),
            printed=PRINTED_VALUES,
        output:
            table=f"{EXHIBITS_FOLDER}/table2.csv",
            page=f"{EXHIBITS_FOLDER}/table2.html",
            markdown=f"{EXHIBITS_FOLDER}/table2.md",
            record=f"{EXHIBITS_FOLDER}/table2.json",
        log:
            "results/logs/table2/{dataset}.log",
        benchmark:
            "results/benchmarks/table2/{dataset}.tsv"
        localrule: True
        conda:
            "../envs/scans-and-tables.yaml"
        params:
            rows=exhibits.table2_rows(config),
            labels=exhibits.labels(config, exhibits.table2_methods(config)),
            caption_note=caption_note,
            code=script_code("table2"),
        script:
            "../workflow/scripts/table2.py"

else:

    rule no_diffusion:
        input:
            scores=scores_of(exhibits.no_diffusion_labels(config), "table2"),
            printed=PRINTED_VALUES,
        output:
            table=f"{EXHIBITS_FOLDER}/table2.csv",
            page=f"{EXHIBITS_FOLDER}/table2.html",
            markdown=f"{EXHIBITS_FOLDER}/table2.md",
            record=f"{EXHIBITS_FOLDER}/table2.json",
        log:
            "results/logs/table2/{dataset}.log",
        benchmark:
            "results/benchmarks/table2/{dataset}.tsv"
        localrule: True
        conda:
            "../envs/scans-and-tables.yaml"
        params:
            labels=exhibits.no_diffusion_labels(config),
            caption_note=caption_note,
            code=script_code("no_diffusion"),
        script:
            "../workflow/scripts/no_diffusion.py"


rule fig3:
    input:
        ensembles=ensembles_of(methods.step_methods(config), "fig3"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/fig3.pdf",
        png=f"{EXHIBITS_FOLDER}/fig3.png",
        numbers=f"{EXHIBITS_FOLDER}/fig3.csv",
        record=f"{EXHIBITS_FOLDER}/fig3.json",
    log:
        "results/logs/fig3/{dataset}.log",
    benchmark:
        "results/benchmarks/fig3/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        points=exhibits.step_points(config),
        caption_note=figure_note,
        title=EXHIBITS["fig3"].title,
        code=script_code("fig3"),
    script:
        "../workflow/scripts/fig3.py"


rule table4:
    input:
        ensembles=ensembles_of(methods.step_methods(config), "table4"),
        printed=PRINTED_VALUES,
    output:
        table=f"{EXHIBITS_FOLDER}/table4.csv",
        page=f"{EXHIBITS_FOLDER}/table4.html",
        markdown=f"{EXHIBITS_FOLDER}/table4.md",
        record=f"{EXHIBITS_FOLDER}/table4.json",
    log:
        "results/logs/table4/{dataset}.log",
    benchmark:
        "results/benchmarks/table4/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        points=exhibits.step_points(config),
        samples=(config["exhibits"]["steps"] or {}).get("samples"),
        caption_note=caption_note,
        code=script_code("table4"),
    script:
        "../workflow/scripts/table4.py"


rule uncertainty:
    input:
        scores=scores_of(config["exhibits"]["table1"], "uncertainty"),
    output:
        table=f"{EXHIBITS_FOLDER}/uncertainty.csv",
        page=f"{EXHIBITS_FOLDER}/uncertainty.html",
        markdown=f"{EXHIBITS_FOLDER}/uncertainty.md",
        record=f"{EXHIBITS_FOLDER}/uncertainty.json",
    log:
        "results/logs/uncertainty/{dataset}.log",
    benchmark:
        "results/benchmarks/uncertainty/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=exhibits.labels(config, config["exhibits"]["table1"]),
        settings=config["evaluation"],
        caption_note=caption_note,
        code=script_code("uncertainty"),
    script:
        "../workflow/scripts/uncertainty.py"


rule claims:
    input:
        unpack(claims_files),
        scores=scores_of(exhibits.claims_methods(config), "claims"),
        ensembles=ensembles_of(exhibits.claims_ensembles(config), "claims"),
        printed=PRINTED_VALUES,
    output:
        table=f"{EXHIBITS_FOLDER}/claims.csv",
        page=f"{EXHIBITS_FOLDER}/claims.html",
        markdown=f"{EXHIBITS_FOLDER}/claims.md",
        record=f"{EXHIBITS_FOLDER}/claims.json",
    log:
        "results/logs/claims/{dataset}.log",
    benchmark:
        "results/benchmarks/claims/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        roles=exhibits.claims_roles(config),
        labels=exhibits.labels(config, exhibits.compared_methods(config)),
        caption_note=caption_note,
        code=script_code("claims"),
    script:
        "../workflow/scripts/claims.py"


rule fig2_uncertainty:
    input:
        unpack(figure2_files),
        cases="results/{dataset}/cases/prepared.csv",
    output:
        pdf=f"{EXHIBITS_FOLDER}/fig2_uncertainty.pdf",
        png=f"{EXHIBITS_FOLDER}/fig2_uncertainty.png",
        numbers=f"{EXHIBITS_FOLDER}/fig2_uncertainty.csv",
        record=f"{EXHIBITS_FOLDER}/fig2_uncertainty.json",
    log:
        "results/logs/fig2_uncertainty/{dataset}.log",
    benchmark:
        "results/benchmarks/fig2_uncertainty/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=exhibits.labels(config, config["exhibits"]["table1"]),
        num_cases=config["exhibits"]["fig2_uncertainty"]["cases"],
        classes=dataset_classes,
        caption_note=figure_note,
        title=EXHIBITS["fig2_uncertainty"].title,
        code=script_code("fig2_uncertainty"),
    script:
        "../workflow/scripts/fig2_uncertainty.py"


rule fig3_tprime:
    input:
        scores=scores_of(exhibits.figure3_methods(config), "fig3_tprime"),
        printed=PRINTED_VALUES,
    output:
        pdf=f"{EXHIBITS_FOLDER}/fig3_tprime.pdf",
        png=f"{EXHIBITS_FOLDER}/fig3_tprime.png",
        numbers=f"{EXHIBITS_FOLDER}/fig3_tprime.csv",
        record=f"{EXHIBITS_FOLDER}/fig3_tprime.json",
    log:
        "results/logs/fig3_tprime/{dataset}.log",
    benchmark:
        "results/benchmarks/fig3_tprime/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        points=exhibits.figure3_points(config),
        caption_note=figure_note,
        title=EXHIBITS["fig3_tprime"].title,
        code=script_code("fig3_tprime"),
    script:
        "../workflow/scripts/fig3_tprime.py"


rule fig4_ensemble:
    input:
        ensembles=ensembles_of(exhibits.figure4_labels(config), "fig4_ensemble"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/fig4_ensemble.pdf",
        png=f"{EXHIBITS_FOLDER}/fig4_ensemble.png",
        numbers=f"{EXHIBITS_FOLDER}/fig4_ensemble.csv",
        record=f"{EXHIBITS_FOLDER}/fig4_ensemble.json",
    log:
        "results/logs/fig4_ensemble/{dataset}.log",
    benchmark:
        "results/benchmarks/fig4_ensemble/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=exhibits.figure4_labels(config),
        samples=exhibits.figure_samples(config, exhibits.figure4_labels(config)),
        caption_note=figure_note,
        title=EXHIBITS["fig4_ensemble"].title,
        code=script_code("fig4_ensemble"),
    script:
        "../workflow/scripts/fig4_ensemble.py"


rule fig4:
    input:
        ensembles=ensembles_of(methods.figure4_methods(config), "fig4"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/fig4.pdf",
        png=f"{EXHIBITS_FOLDER}/fig4.png",
        numbers=f"{EXHIBITS_FOLDER}/fig4.csv",
        record=f"{EXHIBITS_FOLDER}/fig4.json",
    log:
        "results/logs/fig4/{dataset}.log",
    benchmark:
        "results/benchmarks/fig4/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=exhibits.labels(config, methods.figure4_methods(config)),
        samples=exhibits.figure_samples(config, methods.figure4_methods(config)),
        caption_note=figure_note,
        title=EXHIBITS["fig4"].title,
        code=script_code("fig4"),
    script:
        "../workflow/scripts/fig4.py"


rule fig5:
    input:
        ensembles=ensembles_of(methods.figure5_chains(config), "fig5"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/fig5.pdf",
        png=f"{EXHIBITS_FOLDER}/fig5.png",
        numbers=f"{EXHIBITS_FOLDER}/fig5.csv",
        record=f"{EXHIBITS_FOLDER}/fig5.json",
    log:
        "results/logs/fig5/{dataset}.log",
    benchmark:
        "results/benchmarks/fig5/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        points=exhibits.figure5_points(config),
        members=(config["exhibits"]["fig5"] or {}).get("members"),
        caption_note=figure_note,
        title=EXHIBITS["fig5"].title,
        code=script_code("fig5"),
    script:
        "../workflow/scripts/fig5.py"


# It measures on the device where networks are sampled, so it is a job of the cluster.
rule memory:
    input:
        required_exhibit("memory"),
    output:
        table=f"{EXHIBITS_FOLDER}/memory.csv",
        page=f"{EXHIBITS_FOLDER}/memory.html",
        markdown=f"{EXHIBITS_FOLDER}/memory.md",
        record=f"{EXHIBITS_FOLDER}/memory.json",
    log:
        "results/logs/memory/{dataset}.log",
    benchmark:
        "results/benchmarks/memory/{dataset}.tsv"
    retries: RETRIES
    conda:
        "../envs/networks.yaml"
    threads: config["resources"]["sample"]["threads"]
    resources:
        gpu=config["resources"]["sample"]["gpu"],
        gpu_jobs=int(config["resources"]["sample"]["gpu"] > 0),
        mem_mb=memory("sample"),
        runtime=escalating(30),
    params:
        table=config["exhibits"]["memory"],
        networks=exhibits.memory_networks(config),
        device=config["device"],
        caption_note=exhibits.memory_note(config),
        code=script_code("memory"),
    script:
        "../workflow/scripts/memory.py"


rule pareto:
    input:
        ensembles=ensembles_of([point["method"] for point in exhibits.pareto_points(config)], "pareto"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/pareto.pdf",
        png=f"{EXHIBITS_FOLDER}/pareto.png",
        numbers=f"{EXHIBITS_FOLDER}/pareto.csv",
        record=f"{EXHIBITS_FOLDER}/pareto.json",
    log:
        "results/logs/pareto/{dataset}.log",
    benchmark:
        "results/benchmarks/pareto/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        points=exhibits.pareto_points(config),
        members=config["exhibits"]["pareto"] and config["exhibits"]["pareto"]["members"],
        caption_note=figure_note,
        title=EXHIBITS["pareto"].title,
        code=script_code("pareto"),
    script:
        "../workflow/scripts/pareto.py"


# Networks of another dataset are probed on validation cases of that dataset.
rule probe_figure:
    input:
        probes=lambda wildcards: inputs.probe_inputs(config, wildcards.dataset, "results"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/probe.pdf",
        png=f"{EXHIBITS_FOLDER}/probe.png",
        numbers=f"{EXHIBITS_FOLDER}/probe.csv",
        record=f"{EXHIBITS_FOLDER}/probe.json",
    log:
        "results/logs/probe_figure/{dataset}.log",
    benchmark:
        "results/benchmarks/probe_figure/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=exhibits.probed_networks(config),
        caption_note=lambda wildcards: exhibits.figure_note(config, methods.networks_from(config, wildcards.dataset)),
        title=EXHIBITS["probe"].title,
        code=script_code("probe_figure"),
    script:
        "../workflow/scripts/probe_figure.py"


# Networks of another dataset were trained on that dataset.
rule training_curves:
    input:
        histories=histories_of(exhibits.planned_methods(config)),
    output:
        pdf=f"{EXHIBITS_FOLDER}/training.pdf",
        png=f"{EXHIBITS_FOLDER}/training.png",
        numbers=f"{EXHIBITS_FOLDER}/training.csv",
        record=f"{EXHIBITS_FOLDER}/training.json",
    log:
        "results/logs/training_curves/{dataset}.log",
    benchmark:
        "results/benchmarks/training_curves/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        caption_note=lambda wildcards: exhibits.figure_note(config, methods.networks_from(config, wildcards.dataset)),
        title=EXHIBITS["training"].title,
        code=script_code("training_curves"),
    script:
        "../workflow/scripts/training_curves.py"


# The planned FLOPs of the trainings need PyTorch, unless `make plan` has counted them.
rule leak:
    input:
        unpack(lambda wildcards: inputs.leak_inputs(config, wildcards.dataset, "results")),
    output:
        table=f"{EXHIBITS_FOLDER}/leak.csv",
        page=f"{EXHIBITS_FOLDER}/leak.html",
        markdown=f"{EXHIBITS_FOLDER}/leak.md",
        pdf=f"{EXHIBITS_FOLDER}/leak.pdf",
        png=f"{EXHIBITS_FOLDER}/leak.png",
        record=f"{EXHIBITS_FOLDER}/leak.json",
    log:
        "results/logs/leak/{dataset}.log",
    benchmark:
        "results/benchmarks/leak/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/networks.yaml"
    params:
        rows=leak.leak_rows(config),
        users=leak.network_labels(config),
        inner=leak.inner_networks(config),
        from_noise=leak.noise_labels(config),
        caption_note=caption_note,
        figure_note=figure_note,
        title=EXHIBITS["leak"].title,
        code=script_code("leak"),
    script:
        "../workflow/scripts/leak.py"


rule leak_probe:
    input:
        probes=lambda wildcards: inputs.leak_probe_inputs(config, wildcards.dataset, "results"),
    output:
        pdf=f"{EXHIBITS_FOLDER}/leak_probe.pdf",
        png=f"{EXHIBITS_FOLDER}/leak_probe.png",
        numbers=f"{EXHIBITS_FOLDER}/leak_probe.csv",
        record=f"{EXHIBITS_FOLDER}/leak_probe.json",
    log:
        "results/logs/leak_probe/{dataset}.log",
    benchmark:
        "results/benchmarks/leak_probe/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        denoisers=leak.leak_denoisers(config),
        caption_note=figure_note,
        title=EXHIBITS["leak_probe"].title,
        code=script_code("leak_probe"),
    script:
        "../workflow/scripts/leak_probe.py"


# The exhibits of the active dataset have short paths, and so has Table 1 of the cases that were held out from it.
for name, exhibit in EXHIBITS.items():
    dataset = HELD_OUT if name == "held_out" else config["dataset"]
    originals = [f"{FOLDER}/{dataset}/exhibits/{file.replace('held_out', 'table1')}" for file in exhibit.files]
    copies = [f"{FOLDER}/{file}" for file in exhibit.files]

    rule:
        name:
            f"publish_{name}"
        input:
            originals,
        output:
            report(
                copies[0],
                caption=f"../workflow/report/{name}.rst",
                category=exhibit.category,
                labels={"exhibit": exhibit.title},
            ),
            *copies[1:],
        log:
            f"results/logs/publish_{name}/{dataset}.log",
        localrule: True
        conda:
            "../envs/scans-and-tables.yaml"
        params:
            code=script_code("publish"),
        script:
            "../workflow/scripts/publish.py"


rule provenance:
    input:
        records=[file for file in PUBLISHED if file.endswith(".json")],
    output:
        page=report(
            f"{FOLDER}/provenance.html",
            caption="../workflow/report/provenance.rst",
            category="Provenance",
            labels={"exhibit": "How it was made"},
        ),
        table=f"{FOLDER}/provenance.csv",
        markdown=f"{FOLDER}/provenance.md",
    log:
        f"results/logs/provenance/{config['dataset']}.log",
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        titles={name: exhibit.title for name, exhibit in EXHIBITS.items()},
        code=script_code("provenance"),
    script:
        "../workflow/scripts/provenance.py"


# The masks of all test cases are read here, so that the page needs no job per case or exhibit.
rule index:
    input:
        unpack(index_files),
        exhibits=PUBLISHED,
        provenance=[f"{FOLDER}/provenance.html", f"{FOLDER}/provenance.csv"],
        cases=f"results/{config['dataset']}/cases/prepared.csv",
    output:
        page=f"{FOLDER}/index.html",
        images=directory(f"{FOLDER}/index_files"),
    log:
        f"results/logs/index/{config['dataset']}.log",
    benchmark:
        f"results/benchmarks/index/{config['dataset']}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        text={
            "title": f"{config['exhibits']['index']['title']} on {config['dataset']}, {config['scale']} scale",
            "introduction": report_text("workflow"),
            "caption_note": exhibits.caption_note(config, config["dataset"]),
            "marked": "All classes" if methods.dataset_classes(config, config["dataset"]) else "Lesions",
        },
        exhibits=[
            {"name": name, "title": exhibit.title, "caption": report_text(name), "files": exhibit.files}
            for name, exhibit in exhibits.default_exhibits(config).items()
        ],
        source={
            "channel": config["datasets"][config["dataset"]]["channels"][0],
            "labels": exhibits.labels(config, config["exhibits"]["table1"]),
            "max_slices": config["exhibits"]["index"]["slices"],
            "classes": methods.dataset_classes(config, config["dataset"]),
        },
        templates=templates_version(),
        code=script_code("index"),
    script:
        "../workflow/scripts/index.py"
