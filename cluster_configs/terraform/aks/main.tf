# Node pools and the storage account on AKS. Needs the azurerm provider, so it was formatted, not
# validated, here.

variable "cluster_id" { type = string }
variable "resource_group" { type = string }
variable "location" { type = string }
variable "storage_account" { type = string }
variable "customer_key_id" {
  description = "Key Vault key for the storage account."
  type        = string
}
variable "identity_id" {
  description = "User-assigned identity that may use the key."
  type        = string
}
variable "groups" { type = any }
variable "system" { type = any }

module "pools" {
  source = "../pools"
  target = "aks"
  groups = var.groups
  system = var.system
}

resource "azurerm_kubernetes_cluster_node_pool" "pool" {
  for_each              = module.pools.pools
  kubernetes_cluster_id = var.cluster_id
  name                  = substr(replace(each.key, "-", ""), 0, 12)
  vm_size               = each.value.machine_type
  auto_scaling_enabled  = true
  min_count             = each.value.min_nodes
  max_count             = each.value.max_nodes
  priority              = each.value.is_spot ? "Spot" : "Regular"
  eviction_policy       = each.value.is_spot ? "Delete" : null
  node_labels           = each.value.labels
  node_taints           = [for t in each.value.taints : "${t.key}=${t.value}:${t.effect}"]
}

resource "azurerm_storage_account" "store" {
  name                            = var.storage_account
  resource_group_name             = var.resource_group
  location                        = var.location
  account_tier                    = "Standard"
  account_replication_type        = "ZRS"
  is_hns_enabled                  = true
  allow_nested_items_to_be_public = false
  shared_access_key_enabled       = false

  identity {
    type         = "UserAssigned"
    identity_ids = [var.identity_id]
  }

  customer_managed_key {
    key_vault_key_id          = var.customer_key_id
    user_assigned_identity_id = var.identity_id
  }
}
