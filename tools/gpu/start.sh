# On a lent GPU, in the root of the code, before anything else: `. tools/gpu/start.sh FOLDER [PACKED]`.
#
# Installs the wheels of `.whl` apart from what is there, lets records name the commit of PACKED/git.tar (`.gpu`), puts the
# bundles and images of PACKED where commands find them, and unpacks results that go on into FOLDER/results. What an earlier
# call on the same machine brought stays: a later one needs no wheels.
set -uo pipefail
packed=${2:-.gpu}
if [ -d .whl ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit 3
fi
export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 LATENT_PRIOR_CACHE=/tmp/cache LATENT_PRIOR_DATA=/tmp/data OMP_NUM_THREADS=1
mkdir -p /tmp/code /tmp/cache/bundles /tmp/data "$1/results"
[ ! -d "$packed/bundles" ] || cp -r "$packed/bundles/." /tmp/cache/bundles/
[ ! -d "$packed/data" ] || cp -r "$packed/data/." /tmp/data/
git config --global safe.directory '*'
tar -C /tmp/code -xf "$packed/git.tar"
export GIT_DIR=/tmp/code/.git GIT_WORK_TREE=$PWD # whatever history is beside the files here
git read-tree HEAD
python3 -c "from benchmark.store.provenance import _describe_code; print(_describe_code())"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader
for each in "$packed"/*.tar.gz; do
    [ -e "$each" ] || continue
    name=$(basename "$each" .tar.gz)
    mkdir -p "$1/results/$name"
    tar -C "$1/results/$name" -xzf "$each"
done
