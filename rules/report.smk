# Tables and figures. They read scores only, and never torch.


rule table1:
    input:
        scores=lambda wildcards: score_files(wildcards.dataset, config["exhibits"]["table1"]),
        printed="config/printed_values.csv",
    output:
        multiext(
            "results/{dataset}/exhibits/table1",
            table=".csv",
            page=".html",
            markdown=".md",
        ),
    log:
        "results/logs/table1/{dataset}.log",
    conda:
        "../envs/pd-ddpm.yaml"
    params:
        labels=labels(config["exhibits"]["table1"]),
        remark=lambda wildcards: remark(wildcards.dataset),
        code=script_code("table1"),
    script:
        "../workflow/scripts/table1.py"


rule fig3_tprime:
    input:
        scores=lambda wildcards: score_files(wildcards.dataset, figure3_methods()),
        printed="config/printed_values.csv",
    output:
        multiext(
            "results/{dataset}/exhibits/fig3_tprime",
            pdf=".pdf",
            png=".png",
            numbers=".csv",
        ),
    log:
        "results/logs/fig3_tprime/{dataset}.log",
    conda:
        "../envs/pd-ddpm.yaml"
    params:
        curve=lambda wildcards: dict(
            zip(settings.figure3_methods(config), config["exhibits"]["fig3_tprime"]["t_start"], strict=True)
        ),
        labels=figure3_labels(),
        remark=lambda wildcards: f"{wildcards.dataset}, {config['scale']} scale",
        code=script_code("fig3_tprime"),
    script:
        "../workflow/scripts/fig3_tprime.py"


rule publish_table1:
    input:
        multiext(f"results/{config['dataset']}/exhibits/table1", ".csv", ".html", ".md"),
    output:
        "results/table1.csv",
        report(
            "results/table1.html",
            caption="../workflow/report/table1.rst",
            category="Tables",
            labels={"exhibit": "Table 1"},
        ),
        "results/table1.md",
    log:
        "results/logs/publish/table1.log",
    localrule: True
    conda:
        "../envs/pd-ddpm.yaml"
    shell:
        "cp {input} results/ 2> {log}"


rule publish_fig3_tprime:
    input:
        multiext(f"results/{config['dataset']}/exhibits/fig3_tprime", ".pdf", ".png", ".csv"),
    output:
        "results/fig3_tprime.pdf",
        report(
            "results/fig3_tprime.png",
            caption="../workflow/report/fig3_tprime.rst",
            category="Figures",
            labels={"exhibit": "Figure 3"},
        ),
        "results/fig3_tprime.csv",
    log:
        "results/logs/publish/fig3_tprime.log",
    localrule: True
    conda:
        "../envs/pd-ddpm.yaml"
    shell:
        "cp {input} results/ 2> {log}"
