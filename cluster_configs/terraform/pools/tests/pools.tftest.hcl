variables {
  target = "gke"
  system = { machine_type = "yours", min_nodes = 2, max_nodes = 4 }
  groups = {
    cpu = { machine_type = "yours", max_workers = 10 }
    gpu = {
      machine_type       = "yours"
      max_workers        = 4
      spot_share_percent = 50
      accelerator        = "nvidia-l4"
      gpus_per_worker    = 1
    }
  }
}

run "spot_and_on_demand_are_pools_apart" {
  command = plan
  assert {
    condition     = join(",", sort(keys(output.pools))) == "cpu,gpu,gpu-spot,system"
    error_message = "a group with a spot share gives two pools"
  }
  assert {
    condition     = output.pools["gpu-spot"].max_nodes == 2 && output.pools["gpu"].max_nodes == 4
    error_message = "spot takes its share, on demand can take all"
  }
}

run "labels_and_taints_are_those_that_pods_select" {
  command = plan
  assert {
    condition     = output.pools["gpu-spot"].labels["heliostat.io/pool"] == "gpu-spot" && output.pools["gpu-spot"].labels["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    error_message = "labels"
  }
  assert {
    condition     = join(",", [for t in output.pools["gpu-spot"].taints : t.key]) == "nvidia.com/gpu,cloud.google.com/gke-spot"
    error_message = "taints"
  }
  assert {
    condition     = length(output.pools["system"].taints) == 0 && output.pools["system"].is_spot == false
    error_message = "heads run on demand"
  }
}

run "eks_is_refused" {
  command = plan
  variables {
    target = "eks"
  }
  expect_failures = [var.target]
}

run "a_gpu_without_a_name_is_refused" {
  command = plan
  variables {
    groups = { gpu = { machine_type = "yours", max_workers = 1, gpus_per_worker = 1 } }
  }
  expect_failures = [var.groups]
}

run "a_slice_of_several_hosts_is_a_pool_of_all_its_hosts" {
  command = plan
  variables {
    tpus = {
      tpu  = { machine_type = "yours", topology = "4x4", num_hosts = 4, max_slices = 2 }
      tiny = { machine_type = "yours", topology = "2x2", num_hosts = 1 }
    }
  }
  assert {
    condition     = output.pools["tpu"].max_nodes == 8 && output.pools["tpu"].topology == "4x4" && output.pools["tpu"].labels["heliostat.io/pool"] == "tpu"
    error_message = "all hosts of all slices, placed together"
  }
  assert {
    condition     = output.pools["tiny"].max_nodes == 1 && output.pools["tiny"].topology == null && output.pools["gpu"].topology == null
    error_message = "one host needs no placement"
  }
}

run "only_gke_has_tpus" {
  command = plan
  variables {
    target = "aks"
    tpus   = { tpu = { machine_type = "yours", topology = "4x4", num_hosts = 4 } }
  }
  expect_failures = [var.tpus]
}
