"""Agents with memory."""

import copy

import torch
from torch import nn, optim
from torch.distributions.categorical import Categorical
from torch.nn import functional as F


def recurrent_ppo(rnn: type[nn.Module]) -> list[float]:
    """PPO: orthogonal weights by name, states times `(1 - done)`, minibatches of whole envs."""

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Linear(3, 12), nn.ReLU())
            self.lstm = rnn(12, 16)
            for name, param in self.lstm.named_parameters():
                if "bias" in name:
                    nn.init.constant_(param, 0)
                elif "weight" in name:
                    nn.init.orthogonal_(param, 1.0)
            self.actor = nn.Linear(16, 3)
            self.critic = nn.Linear(16, 1)

        def get_states(self, x, lstm_state, done):
            hidden = self.network(x)
            batch_size = lstm_state[0].shape[1]
            hidden = hidden.reshape((-1, batch_size, self.lstm.input_size))
            done = done.reshape((-1, batch_size))
            new_hidden = []
            for h, d in zip(hidden, done, strict=True):
                h, lstm_state = self.lstm(
                    h.unsqueeze(0),
                    (
                        (1.0 - d).view(1, -1, 1) * lstm_state[0],
                        (1.0 - d).view(1, -1, 1) * lstm_state[1],
                    ),
                )
                new_hidden += [h]
            return torch.flatten(torch.cat(new_hidden), 0, 1), lstm_state

        def get_action_and_value(self, x, lstm_state, done, action=None):
            hidden, lstm_state = self.get_states(x, lstm_state, done)
            probs = Categorical(logits=self.actor(hidden))
            if action is None:
                action = probs.sample()
            return action, probs.log_prob(action), self.critic(hidden), lstm_state

    num_envs, num_steps = 32, 5
    agent = Agent()
    optimizer = optim.Adam(agent.parameters(), lr=0.01, eps=1e-5)
    next_lstm_state = (
        torch.zeros(agent.lstm.num_layers, num_envs, agent.lstm.hidden_size),
        torch.zeros(agent.lstm.num_layers, num_envs, agent.lstm.hidden_size),
    )
    # An episode shows its cue in its first step only; the reward is for naming it in each.
    cue, next_done = torch.randint(0, 3, (num_envs,)), torch.ones(num_envs)
    next_obs = F.one_hot(cue, 3) * next_done[:, None]
    regrets = []
    for _ in range(16):
        initial_lstm_state = (next_lstm_state[0].clone(), next_lstm_state[1].clone())
        rollout = []
        for _ in range(num_steps):
            obs, done = next_obs, next_done
            with torch.no_grad():
                action, logprob, value, next_lstm_state = agent.get_action_and_value(
                    obs, next_lstm_state, done
                )
            rollout.append((obs, done, action, logprob, value.flatten(), (action == cue).float()))
            next_done = (torch.rand(num_envs) < 0.3).float()
            cue = torch.where(next_done > 0, torch.randint(0, 3, (num_envs,)), cue)
            next_obs = F.one_hot(cue, 3) * next_done[:, None]
        obs, dones, actions, logprobs, values, rewards = map(
            torch.stack, zip(*rollout, strict=True)
        )
        advantages = rewards - values  # an action changes nothing later on
        regrets.append(1.0 - rewards.mean().item())

        flatinds = torch.arange(num_envs * num_steps).reshape(num_steps, num_envs)
        for _ in range(2):
            envinds = torch.randperm(num_envs)
            for start in range(0, num_envs, num_envs // 2):
                mbenvinds = envinds[start : start + num_envs // 2]
                mb_inds = flatinds[:, mbenvinds].ravel()
                _, newlogprob, newvalue, _ = agent.get_action_and_value(
                    obs.flatten(0, 1)[mb_inds],
                    (initial_lstm_state[0][:, mbenvinds], initial_lstm_state[1][:, mbenvinds]),
                    dones.flatten()[mb_inds],
                    actions.flatten()[mb_inds],
                )
                ratio = (newlogprob - logprobs.flatten()[mb_inds]).exp()
                mb_advantages = advantages.flatten()[mb_inds]
                pg_loss = -torch.min(
                    mb_advantages * ratio, mb_advantages * torch.clamp(ratio, 0.8, 1.2)
                ).mean()
                v_loss = F.mse_loss(newvalue.flatten(), rewards.flatten()[mb_inds])
                optimizer.zero_grad()
                (pg_loss + 0.5 * v_loss).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    return regrets


def recurrent_q_learning(rnn: type[nn.Module]) -> list[float]:
    """DRQN: a target net by `deepcopy` and soft updates, a burn-in's states for some rows."""

    class QNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = rnn(4, 13, batch_first=True)
            self.q = nn.Linear(13, 2)

        def forward(self, x, hidden=None):
            out, hidden = self.lstm(x, hidden)
            return self.q(out), hidden

    online = QNet()
    target = copy.deepcopy(online)
    for p in target.parameters():
        p.requires_grad = False
    optimizer = optim.Adam(online.parameters(), lr=0.02)
    obs = torch.randn(6, 12, 4)
    action = torch.randint(0, 2, (6, 12, 1))
    shown = F.pad(obs[:, :-1, 0], (1, 0)) > 0  # what was seen a step ago tells the right action
    reward = 2.0 * (action.squeeze(2) == shown.long()).float()
    burn_in, gamma, tau = 4, 0.3, 0.1
    losses = []
    for _ in range(40):
        with torch.no_grad():
            _, (h, c) = online(obs[:, :burn_in])
            _, target_hidden = target(obs[:, :burn_in])
            best, _ = target(obs[:, burn_in:], target_hidden)
            returns = reward[:, burn_in:-1] + gamma * best.max(2)[0][:, 1:]
        rows = torch.randperm(6)[:5]
        hidden = (h[:, rows, :].contiguous(), c[:, rows, :].contiguous())
        q, _ = online(obs[rows, burn_in:], hidden)
        taken = q.gather(2, action[rows, burn_in:]).squeeze(2)[:, :-1]
        loss = F.smooth_l1_loss(taken, returns[rows])
        optimizer.zero_grad()
        loss.backward()
        for param in online.parameters():
            if param.grad is not None:
                param.grad.data.clamp_(-1, 1)
        optimizer.step()
        for p, tp in zip(online.parameters(), target.parameters(), strict=True):
            tp.data.copy_(tau * p.data + (1.0 - tau) * tp.data)
        losses.append(loss.item())
    return losses
