"""Download a published dataset or copy it from a local copy, then write the record of the verified files."""

from pathlib import Path

from pd_ddpm.config.study_names import dataset_key
from pd_ddpm.data.download.obtain import obtain
from pd_ddpm.data.download.settings import DownloadSettings
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.job import run


def main(record: str, key: str, download: dict, selection: dict[str, str]) -> None:
    settings = DownloadSettings(**download)
    write_json(Path(record), obtain(Path(record).parent, settings, key=key, **selection))


if __name__ == "__main__":
    name = snakemake.params.dataset
    # Read from the configuration instead of parameters, so that accepting the licence or setting `source` re-runs nothing.
    source, key = snakemake.config["datasets"][name], dataset_key(snakemake.config, name)
    selection = {"layout": source["layout"], "part": snakemake.params.part}
    run(main, snakemake.log[0], **snakemake.output, key=key, download=source["download"], selection=selection)
