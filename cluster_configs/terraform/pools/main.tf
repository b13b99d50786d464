# Node pools as plain values: labels, taints and sizes that the recipe's Pods select. No provider, so
# `terraform test` proves it with no cloud; modules for GKE and AKS take `pools` as it comes out.

terraform {
  required_version = ">= 1.9"
}

variable "target" {
  description = "Where the pools are: gke or aks (Karpenter makes those of eks)."
  type        = string
  validation {
    condition     = contains(["gke", "aks"], var.target)
    error_message = "target must be gke or aks; Karpenter makes the pools of eks."
  }
}

variable "groups" {
  description = "Worker groups of the recipe. machine_type is yours: none is built in."
  type = map(object({
    machine_type       = string
    max_workers        = number
    spot_share_percent = optional(number, 0)
    accelerator        = optional(string)
    gpus_per_worker    = optional(number, 0)
  }))
  validation {
    condition     = alltrue([for g in values(var.groups) : g.max_workers > 0])
    error_message = "max_workers must be above 0."
  }
  validation {
    condition     = alltrue([for g in values(var.groups) : g.spot_share_percent >= 0 && g.spot_share_percent <= 100])
    error_message = "spot_share_percent must be 0 to 100."
  }
  validation {
    condition     = alltrue([for g in values(var.groups) : (g.gpus_per_worker > 0) == (g.accelerator != null)])
    error_message = "accelerator must be set with gpus_per_worker and only then."
  }
}

variable "tpus" {
  description = "TPU slices of the recipe (gke); each is a pool of its own, all hosts of all slices at most."
  type = map(object({
    machine_type = string
    topology     = string
    num_hosts    = number
    max_slices   = optional(number, 1)
  }))
  default = {}
  validation {
    condition     = alltrue([for t in values(var.tpus) : t.num_hosts > 0 && t.max_slices > 0])
    error_message = "num_hosts and max_slices must be above 0."
  }
  validation {
    condition     = alltrue([for t in values(var.tpus) : can(regex("^[0-9]+(x[0-9]+){1,2}$", t.topology))])
    error_message = "topology must look like 4x4."
  }
  validation {
    condition     = length(var.tpus) == 0 || var.target == "gke"
    error_message = "only gke has TPUs."
  }
}

variable "system" {
  description = "Nodes of heads, MLflow, Redis and controllers; always on demand."
  type        = object({ machine_type = string, min_nodes = number, max_nodes = number })
}

locals {
  spot_taint = {
    gke = { key = "cloud.google.com/gke-spot", value = "true", effect = "NoSchedule" }
    aks = { key = "kubernetes.azure.com/scalesetpriority", value = "spot", effect = "NoSchedule" }
  }
  gpu_taint         = { key = "nvidia.com/gpu", value = "present", effect = "NoSchedule" }
  accelerator_label = { gke = "cloud.google.com/gke-accelerator", aks = "heliostat.io/accelerator" }

  on_demand = { for name, g in var.groups : name => merge(g, { is_spot = false, max_nodes = g.max_workers }) }
  spot = {
    for name, g in var.groups : "${name}-spot" => merge(g, {
      is_spot   = true
      max_nodes = floor(g.max_workers * g.spot_share_percent / 100 + 0.5)
    }) if floor(g.max_workers * g.spot_share_percent / 100 + 0.5) > 0
  }

  workers = {
    for name, g in merge(local.on_demand, local.spot) : name => {
      machine_type = g.machine_type
      min_nodes    = 0
      max_nodes    = g.max_nodes
      is_spot      = g.is_spot
      accelerator  = g.accelerator
      gpus         = g.gpus_per_worker
      topology     = null
      labels = merge(
        { "heliostat.io/pool" = name },
        g.accelerator == null ? {} : { (local.accelerator_label[var.target]) = g.accelerator },
      )
      taints = concat(
        g.gpus_per_worker > 0 ? [local.gpu_taint] : [],
        g.is_spot ? [local.spot_taint[var.target]] : [],
      )
    }
  }
}

# GKE itself labels the nodes with accelerator and topology and taints them with google.com/tpu, from
# the machine type; a slice of several hosts comes and goes as a whole, hence the placement policy.
locals {
  slices = {
    for name, t in var.tpus : name => {
      machine_type = t.machine_type
      min_nodes    = 0
      max_nodes    = t.num_hosts * t.max_slices
      is_spot      = false
      accelerator  = null
      gpus         = 0
      topology     = t.num_hosts > 1 ? t.topology : null
      labels       = { "heliostat.io/pool" = name }
      taints       = []
    }
  }
}

output "pools" {
  description = "Every pool: machine type, bounds, labels, taints."
  value = merge(local.workers, local.slices, {
    system = {
      machine_type = var.system.machine_type
      min_nodes    = var.system.min_nodes
      max_nodes    = var.system.max_nodes
      is_spot      = false
      accelerator  = null
      gpus         = 0
      topology     = null
      labels       = { "heliostat.io/pool" = "system" }
      taints       = []
    }
  })
}
