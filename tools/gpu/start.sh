# On a lent GPU, in the root of the code, before anything else: `. tools/gpu/start.sh FOLDER`.
#
# Installs the wheels of `.whl` apart from what is there, lets records name the commit of `.gpu/git.tar`, and unpacks results
# that go on into FOLDER/results.
set -uo pipefail
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit 3
export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 LATENT_PRIOR_CACHE=/tmp/cache LATENT_PRIOR_DATA=$PWD/.gpu/data OMP_NUM_THREADS=1
git config --global safe.directory '*'
mkdir -p /tmp/code "$1/results"
tar -C /tmp/code -xf .gpu/git.tar
export GIT_DIR=/tmp/code/.git GIT_WORK_TREE=$PWD # whatever history is beside the files here
git read-tree HEAD
python3 -c "from benchmark.store.provenance import _describe_code; print(_describe_code())"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader
for each in .gpu/*.tar.gz; do
    [ -e "$each" ] || continue
    name=$(basename "$each" .tar.gz)
    mkdir -p "$1/results/$name"
    tar -C "$1/results/$name" -xzf "$each"
done
