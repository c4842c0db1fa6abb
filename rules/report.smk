# Tables and figures. They read scores only, and never torch; Figure 2 reads masks and scans besides.


rule table1:
    input:
        scores=lambda wildcards: result_files("scores", wildcards.dataset, config["exhibits"]["table1"]),
        printed="config/printed_values.csv",
    output:
        table="results/{dataset}/exhibits/table1.csv",
        page="results/{dataset}/exhibits/table1.html",
        markdown="results/{dataset}/exhibits/table1.md",
        latex="results/{dataset}/exhibits/table1.tex",
        groups="results/{dataset}/exhibits/table1_groups.csv",
        record="results/{dataset}/exhibits/table1.json",
    log:
        "results/logs/table1/{dataset}.log",
    benchmark:
        "results/benchmarks/table1/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=labels(config["exhibits"]["table1"]),
        compared_with=resolve.canonical(config, config["exhibits"]["compared_with"]),
        caption_note=lambda wildcards: remark(wildcards.dataset),
        code=script_code("table1"),
    script:
        "../workflow/scripts/table1.py"


rule table2:
    input:
        scores=lambda wildcards: result_files("scores", wildcards.dataset, table2_scores()),
        printed="config/printed_values.csv",
    output:
        table="results/{dataset}/exhibits/table2.csv",
        page="results/{dataset}/exhibits/table2.html",
        markdown="results/{dataset}/exhibits/table2.md",
        record="results/{dataset}/exhibits/table2.json",
    log:
        "results/logs/table2/{dataset}.log",
    benchmark:
        "results/benchmarks/table2/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        rows=table2_rows(),
        caption_note=lambda wildcards: remark(wildcards.dataset),
        code=script_code("table2"),
    script:
        "../workflow/scripts/table2.py"


rule uncertainty:
    input:
        scores=lambda wildcards: result_files("scores", wildcards.dataset, config["exhibits"]["table1"]),
    output:
        table="results/{dataset}/exhibits/uncertainty.csv",
        page="results/{dataset}/exhibits/uncertainty.html",
        markdown="results/{dataset}/exhibits/uncertainty.md",
        record="results/{dataset}/exhibits/uncertainty.json",
    log:
        "results/logs/uncertainty/{dataset}.log",
    benchmark:
        "results/benchmarks/uncertainty/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=labels(config["exhibits"]["table1"]),
        settings=config["evaluation"],
        caption_note=lambda wildcards: remark(wildcards.dataset),
        code=script_code("uncertainty"),
    script:
        "../workflow/scripts/uncertainty.py"


rule claims:
    input:
        scores=lambda wildcards: result_files("scores", wildcards.dataset, claims_methods()),
        ensembles=lambda wildcards: result_files(
            "ensembles", wildcards.dataset, [config["exhibits"]["fig4_ensemble"]["method"]]
        ),
        printed="config/printed_values.csv",
    output:
        table="results/{dataset}/exhibits/claims.csv",
        page="results/{dataset}/exhibits/claims.html",
        markdown="results/{dataset}/exhibits/claims.md",
        record="results/{dataset}/exhibits/claims.json",
    log:
        "results/logs/claims/{dataset}.log",
    benchmark:
        "results/benchmarks/claims/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        roles=claims_roles(),
        caption_note=lambda wildcards: remark(wildcards.dataset),
        code=script_code("claims"),
    script:
        "../workflow/scripts/claims.py"


rule fig2_uncertainty:
    input:
        cases="results/{dataset}/cases/prepared.csv",
        scores=lambda wildcards: first_results("results/{dataset}/scores/{method}/{run}.csv", wildcards.dataset),
        predictions=lambda wildcards: first_results(
            "results/{dataset}/predictions/{method}/{run}/predictions.csv", wildcards.dataset
        ),
    output:
        pdf="results/{dataset}/exhibits/fig2_uncertainty.pdf",
        png="results/{dataset}/exhibits/fig2_uncertainty.png",
        numbers="results/{dataset}/exhibits/fig2_uncertainty.csv",
        record="results/{dataset}/exhibits/fig2_uncertainty.json",
    log:
        "results/logs/fig2_uncertainty/{dataset}.log",
    benchmark:
        "results/benchmarks/fig2_uncertainty/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=labels(config["exhibits"]["table1"]),
        num_cases=config["exhibits"]["fig2_uncertainty"]["cases"],
        caption_note=figure_remark,
        code=script_code("fig2_uncertainty"),
    script:
        "../workflow/scripts/fig2_uncertainty.py"


rule fig3_tprime:
    input:
        scores=lambda wildcards: result_files("scores", wildcards.dataset, figure3_methods()),
        printed="config/printed_values.csv",
    output:
        pdf="results/{dataset}/exhibits/fig3_tprime.pdf",
        png="results/{dataset}/exhibits/fig3_tprime.png",
        numbers="results/{dataset}/exhibits/fig3_tprime.csv",
        record="results/{dataset}/exhibits/fig3_tprime.json",
    log:
        "results/logs/fig3_tprime/{dataset}.log",
    benchmark:
        "results/benchmarks/fig3_tprime/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        curve=lambda wildcards: dict(
            zip(methods.figure3_methods(config), config["exhibits"]["fig3_tprime"]["t_start"], strict=True)
        ),
        labels=figure3_labels(),
        caption_note=figure_remark,
        code=script_code("fig3_tprime"),
    script:
        "../workflow/scripts/fig3_tprime.py"


rule fig4_ensemble:
    input:
        ensembles=lambda wildcards: result_files(
            "ensembles", wildcards.dataset, [config["exhibits"]["fig4_ensemble"]["method"]]
        ),
    output:
        pdf="results/{dataset}/exhibits/fig4_ensemble.pdf",
        png="results/{dataset}/exhibits/fig4_ensemble.png",
        numbers="results/{dataset}/exhibits/fig4_ensemble.csv",
        record="results/{dataset}/exhibits/fig4_ensemble.json",
    log:
        "results/logs/fig4_ensemble/{dataset}.log",
    benchmark:
        "results/benchmarks/fig4_ensemble/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        labels=labels([config["exhibits"]["fig4_ensemble"]["method"]]),
        samples=resolve.method(config, config["exhibits"]["fig4_ensemble"]["method"])["samples"],
        caption_note=figure_remark,
        code=script_code("fig4_ensemble"),
    script:
        "../workflow/scripts/fig4_ensemble.py"


rule pareto:
    input:
        ensembles=lambda wildcards: result_files("ensembles", wildcards.dataset, [point["method"] for point in pareto_points()]),
    output:
        pdf="results/{dataset}/exhibits/pareto.pdf",
        png="results/{dataset}/exhibits/pareto.png",
        numbers="results/{dataset}/exhibits/pareto.csv",
        record="results/{dataset}/exhibits/pareto.json",
    log:
        "results/logs/pareto/{dataset}.log",
    benchmark:
        "results/benchmarks/pareto/{dataset}.tsv"
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        points=pareto_points(),
        members=config["exhibits"]["pareto"]["members"],
        caption_note=figure_remark,
        code=script_code("pareto"),
    script:
        "../workflow/scripts/pareto.py"


# The exhibits of the active data set are what a user asks for by name, and Table 1 of the cases that were held out from it.
for exhibit, (files, category, title) in EXHIBITS.items():
    source = HELD_OUT if exhibit == "held_out" else config["dataset"]
    originals = [f"results/{source}/exhibits/{file.replace('held_out', 'table1')}" for file in files]

    rule:
        name:
            f"publish_{exhibit}"
        input:
            originals,
        output:
            report(
                f"results/{files[0]}",
                caption=f"../workflow/report/{exhibit}.rst",
                category=category,
                labels={"exhibit": title},
            ),
            *expand("results/{file}", file=files[1:]),
        log:
            f"results/logs/publish/{exhibit}.log",
        localrule: True
        conda:
            "../envs/scans-and-tables.yaml"
        params:
            copies=" && ".join(f"cp {made} results/{file}" for made, file in zip(originals, files, strict=True)),
        shell:
            "({params.copies}) 2> {log}"


rule provenance:
    input:
        records=[file for file in PUBLISHED if file.endswith(".json")],
    output:
        page=report(
            "results/provenance.html",
            caption="../workflow/report/provenance.rst",
            category="Provenance",
            labels={"exhibit": "How it was made"},
        ),
        table="results/provenance.csv",
        markdown="results/provenance.md",
    log:
        "results/logs/provenance.log",
    localrule: True
    conda:
        "../envs/scans-and-tables.yaml"
    params:
        titles={exhibit: title for exhibit, (_, _, title) in EXHIBITS.items()},
        code=script_code("provenance"),
    script:
        "../workflow/scripts/provenance.py"
