# SPDX-License-Identifier: Apache-2.0
#
# Put these provisioners into the `build` of a pod VM's packer template, after those that install kata-agent. They expect a
# directory `image` beside the template, with `provision`, the package and the resources file.

provisioner "shell" {
  inline = ["mkdir -m 0700 /tmp/image"]
}

provisioner "file" {
  source      = "image/"
  destination = "/tmp/image"
}

provisioner "shell" {
  inline = [
    "sudo sh /tmp/image/provision",
    "rm -rf /tmp/image",
  ]
}
