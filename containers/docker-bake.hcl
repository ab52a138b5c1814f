# All images for two architectures, as a release publishes them, from the root of the project:
#
#   REGISTRY=registry.example/team/ VERSION=0.3.0 docker buildx bake --file containers/docker-bake.hcl --push
#
# The images for one machine are built without this file: `docker compose build`.

variable "REGISTRY" { default = "" } # with a slash at its end
variable "VERSION" { default = "" }

group "default" { targets = ["image"] }

target "image" {
  matrix     = { name = ["cpg-platform", "cpg-logger-plugin", "cpg-storage-plugin", "cpg-api-plugin", "cpg-up", "cpg-client"] }
  name       = name
  target     = name
  context    = "."
  dockerfile = "containers/Dockerfile"
  args       = { VERSION = VERSION }
  platforms  = ["linux/amd64", "linux/arm64"]
  tags       = ["${REGISTRY}${name}:${VERSION}"]
}
