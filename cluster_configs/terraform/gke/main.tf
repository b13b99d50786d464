# Node pools and the bucket on GKE. Needs the google provider, so it was formatted, not validated, here.

variable "project" { type = string }
variable "location" { type = string }
variable "cluster" { type = string }
variable "bucket" { type = string }
variable "customer_key" {
  description = "Cloud KMS key for bucket and node disks."
  type        = string
}
variable "groups" { type = any }
variable "tpus" {
  type    = any
  default = {}
}
variable "system" { type = any }

module "pools" {
  source = "../pools"
  target = "gke"
  groups = var.groups
  tpus   = var.tpus
  system = var.system
}

resource "google_container_node_pool" "pool" {
  for_each = module.pools.pools
  project  = var.project
  location = var.location
  cluster  = var.cluster
  name     = each.key

  autoscaling {
    total_min_node_count = each.value.min_nodes
    total_max_node_count = each.value.max_nodes
  }

  dynamic "placement_policy" {
    for_each = each.value.topology == null ? [] : [each.value.topology]
    content {
      type         = "COMPACT"
      tpu_topology = placement_policy.value
    }
  }

  node_config {
    machine_type      = each.value.machine_type
    spot              = each.value.is_spot
    labels            = { for key, value in each.value.labels : key => value if !startswith(key, "cloud.google.com/") }
    boot_disk_kms_key = var.customer_key

    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    dynamic "guest_accelerator" {
      for_each = each.value.gpus > 0 ? [each.value] : []
      content {
        type  = guest_accelerator.value.accelerator
        count = guest_accelerator.value.gpus
      }
    }

    dynamic "taint" {
      for_each = each.value.taints
      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = "NO_SCHEDULE"
      }
    }
  }
}

resource "google_storage_bucket" "store" {
  project                     = var.project
  name                        = var.bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  encryption {
    default_kms_key_name = var.customer_key
  }
}
